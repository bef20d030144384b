"""The results of a sweep's jobs: a table, plots, and the IsoFLOP study."""
