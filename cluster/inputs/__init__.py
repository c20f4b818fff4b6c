"""Inputs of a run, opened and checked before an engine starts: samples, model, reward."""
