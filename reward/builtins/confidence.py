"""Reward for calibrated confidence: proper scoring of the confidence that the model states.

r = 1 - (c - correct)^2, where c is the stated confidence and correct is 0 or 1

The Brier score (Brier 1950) turned round; RLCR (arXiv 2507.16806) subtracts it from correctness,
which is this reward plus ``accuracy``, less 1. Alone it also pays for a wrong answer stated with
confidence 0: use it beside ``accuracy``.
"""

import re

from pydantic import Field

from reward.builtins.deepintuit import accuracy_reward
from reward.builtins.params import Params
from reward.context import RewardContext
from wire.labels import first_block


class BrierParams(Params):
    """Parameters of ``brier``: where the completion states its confidence.

    Example:
        BrierParams(tag="confidence")
    """

    tag: str = Field(default="confidence", pattern=r"^[a-z_]+$")
    """``<confidence>0.8</confidence>`` or ``80%``; inside the think block if ``format`` is a reward
    too."""


_CONFIDENCE = re.compile(r"(?:\d{1,3}(?:\.\d{0,9})?|\.\d{1,9})%?", re.ASCII)


def brier(completion: str, label: str, context: RewardContext, *, tag: str) -> float:
    """1 - (c - correct)^2, in [0, 1]; a confidence that is missing or not in [0, 1] gives 0."""
    confidence = confidence_in(completion, tag)
    if confidence is None:
        return 0.0
    return brier_reward(confidence, accuracy_reward(completion, label, context.labels) == 1.0)


def brier_reward(confidence: float, is_correct: bool) -> float:
    """The Brier score turned round, so that 1 is best."""
    return 1.0 - (confidence - is_correct) ** 2


def confidence_in(completion: str, tag: str) -> float | None:
    """The number in the first ``tag`` block, in [0, 1]; None if there is no such number."""
    stated = (first_block(completion, tag) or "").strip()
    if not _CONFIDENCE.fullmatch(stated):
        return None
    value = float(stated.removesuffix("%")) / (100 if stated.endswith("%") else 1)
    return value if value <= 1 else None
