"""Following a training loop: its passes, its steps, and windows of readings."""
