"""Measurements of a policy beyond its answers."""
