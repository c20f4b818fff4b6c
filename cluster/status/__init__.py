"""What a run is doing, from its files."""
