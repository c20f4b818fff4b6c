"""Simulation of a run: the real loop, buffer and pool on a virtual clock, with scripted workers."""
