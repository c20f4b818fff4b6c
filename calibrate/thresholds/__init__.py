"""Thresholds per label, derived from what a classifier says of clips that nothing learned from."""
