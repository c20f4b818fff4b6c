"""The process that drives a run: progress, interrupts, memory, units."""
