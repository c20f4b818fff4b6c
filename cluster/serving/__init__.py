"""Serving outside a run: engines, inspectors and fits that the calibration service is given."""
