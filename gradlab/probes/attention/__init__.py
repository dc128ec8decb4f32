"""Attention scores: the largest q·k of each head, seen or bounded."""
