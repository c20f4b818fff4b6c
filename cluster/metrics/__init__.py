"""Metrics of a run: their names, metrics.jsonl, other sinks."""
