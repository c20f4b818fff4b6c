"""Shift between the traces that a classifier was fitted to and those that it is served."""
