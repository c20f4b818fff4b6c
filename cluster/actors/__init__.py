"""Ray: where actors are placed, started and called, each call within a deadline."""
