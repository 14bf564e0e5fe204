"""Benchmarks: `python -m bench`, or `make bench`, which installs what they need first."""
