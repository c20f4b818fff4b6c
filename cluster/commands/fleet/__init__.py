"""Commands about the fleet: scale, workers, simulate, deploy."""
