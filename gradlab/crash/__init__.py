"""A stranger's loop: what it takes to do a bad step again, kept as it happens, and that done."""
