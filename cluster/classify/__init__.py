"""Use of a classifier: clips in, calibrated labels and decisions out. No Ray, no run."""
