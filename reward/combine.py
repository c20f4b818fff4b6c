"""Combines the values of a trace's terms to its reward. Pure.

{"accuracy": 1.0, "format": 0.0, "judge": None} -> weights, gates, sum or product -> 1.0
"""

import math
from collections.abc import Mapping

from reward.config import RewardConfig, RewardTerm


def combine(config: RewardConfig, label: str, values: Mapping[str, float | None]) -> float | None:
    """The total reward of a trace on a clip of this label; None if no term applies to it.

    total = sum (or product) over the terms that apply of
            weight * label_weights.get(label, 1) * (0 if its gate is closed else value)

    A gate that does not apply is open. A term whose factors make 0 is only logged: it makes no
    product 0, and no total where no other term applies. May be infinite, if the values are huge.
    """
    shares = [
        _share(term, label, value, values)
        for term in config.terms
        if (value := values[term.part]) is not None and _factor(term, label) != 0
    ]
    if not shares:
        return None
    if config.combine == "product":
        return math.prod(shares)
    try:
        return math.fsum(shares)
    except (OverflowError, ValueError):  # finite summands whose sum is not, or inf and -inf
        return math.inf


def _share(term: RewardTerm, label: str, value: float, values: Mapping[str, float | None]) -> float:
    gate = values[term.gated_by] if term.gated_by else None
    is_open = gate is None or gate > 0
    return _factor(term, label) * (value if is_open else 0.0)


def _factor(term: RewardTerm, label: str) -> float:
    return term.weight * term.label_weights.get(label, 1.0)
