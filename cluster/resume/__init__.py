"""Taking a run up again: attempts, checkpoints, archived groups."""
