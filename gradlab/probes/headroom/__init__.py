"""Headroom: how near every site comes to leaving the FP16 range, and what overflowed."""
