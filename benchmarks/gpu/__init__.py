"""Benchmarks for a machine with CUDA."""
