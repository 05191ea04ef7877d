"""Measurements: this package against the limit and its peers, in one run. `python -m benchmarks --help`."""
