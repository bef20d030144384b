"""Starting, watching and stopping runs: the launcher, and what its workers do first."""
