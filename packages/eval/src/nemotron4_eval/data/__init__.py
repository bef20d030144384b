"""Where the items of a benchmark are, and their published formats."""
