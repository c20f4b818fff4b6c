"""Runs side by side: figures of arms, comparisons, claims, the results page."""
