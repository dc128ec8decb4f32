"""What the commands can be told: options made from the fields of configs."""
