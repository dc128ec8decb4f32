"""Probes: what is measured inside a model while it trains, by hooks that change nothing."""
