"""A run's model as files of other libraries: each is written without the library that reads it."""
