"""Runs to tidy tables: pure functions, no torch."""
