"""What a run is given, opened and checked before an engine starts."""
