"""One model trained by several processes, each with its own device and share of the batch."""
