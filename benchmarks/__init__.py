"""Benchmarks: ratios against named peers, each run by one command. Not installed; see README.md beside this file."""
