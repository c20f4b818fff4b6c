"""Calibration service: decisions over HTTP, from published classifiers."""
