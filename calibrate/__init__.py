"""Classify from archived traces: the verdict's data, the head, predictions and their figures."""
