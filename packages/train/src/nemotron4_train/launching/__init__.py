"""Starting, watching and ending runs: what the launcher does, and what its workers do first."""
