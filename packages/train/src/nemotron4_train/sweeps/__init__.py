"""What the jobs of a sweep came to: a table, plots, and the IsoFLOP study."""
