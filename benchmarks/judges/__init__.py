"""The same simulated traffic through our judge and its peers. `python -m benchmarks.judges` writes the table."""
