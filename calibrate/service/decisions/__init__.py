"""Decisions: recorded, explained, replayed."""
