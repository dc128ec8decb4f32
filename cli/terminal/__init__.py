"""What stands on the terminal: results as tables, and what is going on while runs train."""
