"""Semantic action tokens: a clip as a few discrete codes, and the narrative that they tell."""
