"""What a run measured, in files, on the terminal and as a report."""
