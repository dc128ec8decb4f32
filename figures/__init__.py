"""Tables to matplotlib Axes: pure functions, one figure a file."""
