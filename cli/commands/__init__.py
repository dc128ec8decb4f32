"""The commands, one a file: each parses, has the library do it, and prints what it gives back."""
