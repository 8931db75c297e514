"""The statistics behind every replacement: intervals, comparisons and verdicts. NumPy and SciPy only."""
