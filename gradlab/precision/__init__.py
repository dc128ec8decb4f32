"""Number formats: FP16 emulation, autocast, loss scaling and fp32 master weights."""
