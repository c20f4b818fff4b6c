"""Policies: thresholds per label, derived from a stated precision or miss rate."""
