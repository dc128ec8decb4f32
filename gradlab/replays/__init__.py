"""Going back before a run's break, and forward again: as it was, or with something changed."""
