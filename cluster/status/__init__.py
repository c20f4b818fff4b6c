"""State and progress of a run, from its files."""
