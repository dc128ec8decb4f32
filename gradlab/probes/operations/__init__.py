"""Down to the operation: which function, called where, made the first number that is not finite."""
