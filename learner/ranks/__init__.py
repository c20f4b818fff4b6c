"""Ranks of a learner: rendezvous, collectives, determinism, deadlines."""
