"""The built-in training loop, the stability criterion and studies of many runs."""
