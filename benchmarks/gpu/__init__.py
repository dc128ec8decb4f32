"""What needs a GPU, in stages that resume: `python -m benchmarks.gpu`."""
