"""Kinds of stages, one module each: what a stage needs, leaves, and how much work it is."""
