"""The reward of both sides of grpo_step.py: what an untrained model can get better at.

Loaded as a plugin by ours, imported by TRL's process. Imports nothing.
"""

from typing import Any


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None
) -> float:
    """Letters e, in eighths."""
    return solution_str.count("e") / 8
