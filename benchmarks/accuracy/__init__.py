"""What models are worth on real data sets: `python -m benchmarks.accuracy`."""
