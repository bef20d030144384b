"""BIG-Bench Hard."""
