"""Policy: what is done with clips of a label, from a threshold that a stated target gives.

    Policy (label, precision or miss rate, action) + LabelThreshold of a classifier -> ActivePolicy
    ActivePolicy + probabilities of a clip -> PolicyOutcome

A policy is not the model: it names the target, and each classifier has its own threshold for it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from calibrate.thresholds.label_threshold import (
    LabelThreshold,
    Target,
    label_scores,
    promise_in_words,
)
from wire.config import Config

PolicyAction = Literal["auto", "review", "pass"]
"""``auto``: the label is decided without a person; ``review``: a person looks; ``pass``: the clip
is let through without a person."""


class NewPolicy(Config):
    """Policy as it is asked for.

    Example:
        NewPolicy(id="take-down", label="abnormal", target="precision", goal=0.95, action="auto",
                  owner="trust and safety")
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """Name that stays when the policy changes: small letters, digits, ``.``, ``_``, ``-``."""
    label: str = Field(min_length=1, max_length=200)
    """Label whose probability is compared with the threshold."""
    target: Target
    """``precision``: of the clips it fires at, at least ``goal`` have the label; ``miss_rate``: of
    the clips that have the label, at most ``goal`` are missed."""
    goal: float = Field(ge=0.0001, le=0.9999)
    """Least precision, or highest miss rate."""
    confidence: float = Field(default=0.9, ge=0.5, le=0.9999)
    """Probability, over draws of the held-out clips, that the goal is kept."""
    action: PolicyAction
    """What is done where it fires."""
    owner: str = Field(min_length=1, max_length=200)
    """Who answers for it: a person or a team."""
    description: str = Field(default="", max_length=2000)
    """For people."""


class Policy(NewPolicy):
    """Policy with its version, which never changes; a change is a new version."""

    version: int = Field(ge=1)
    retired: bool = False
    """Whether this version ended the policy."""
    created_at: str
    created_by: str

    @property
    def promise(self) -> str:
        """Its target in words."""
        return promise_in_words(self.target, self.label, self.goal, self.confidence)

    @property
    def alone(self) -> bool:
        """Whether no person looks where it fires."""
        return self.action != "review"


class PolicyOutcome(Config):
    """What one policy said of a clip."""

    id: str
    version: int
    label: str
    probability: float
    """Calibrated, of its label."""
    threshold: float | None
    """Derived for the classifier that answered; null: not attainable, it never fires."""
    action: PolicyAction
    fires: bool
    why: str
    """In words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivePolicy:
    """Policy with the threshold of one classifier."""

    policy: Policy
    threshold: LabelThreshold | None
    """None: none can be derived for this classifier, ``lacks`` says why."""
    lacks: str = ""

    @property
    def value(self) -> float | None:
        """Probability from which it fires; None: never."""
        return self.threshold.value if self.threshold else None

    @property
    def explanation(self) -> str:
        """Threshold in words."""
        return self.threshold.explanation if self.threshold else self.lacks

    def outcome(
        self, probabilities: NDArray[np.float64], usable: bool, names: tuple[str, ...]
    ) -> PolicyOutcome:
        """What it says of a clip with probabilities [L]; ``usable``: whether the clip has a
        readable trace and a prediction set that is not empty."""
        policy = self.policy
        place = names.index(policy.label) if policy.label in names else None
        probability = 0.0 if place is None else min(float(probabilities[place]), 1.0)
        score = np.nan
        if place is not None:
            (score,) = label_scores(
                probabilities[None], [usable], place, target=policy.target, alone=policy.alone
            )
        fires = self.value is not None and bool(score >= self.value)
        return PolicyOutcome(
            id=policy.id,
            version=policy.version,
            label=policy.label,
            probability=probability,
            threshold=self.value,
            action=policy.action,
            fires=fires,
            why=self._why(probability, fires, usable),
        )

    def _why(self, probability: float, fires: bool, usable: bool) -> str:
        label, value = self.policy.label, self.value
        if value is None:
            return f"never fires: {self.explanation}"
        if not usable:
            return "the clip has no readable trace, or an empty prediction set: " + (
                "it counts as one that fires" if fires else "it never fires at such clips"
            )
        if probability < value:
            return f"{label} {probability:.3g} is below its threshold {value:g}"
        if not fires:
            return f"{label} is not the most probable label: it acts alone on no other"
        return f"{label} {probability:.3g} reaches its threshold {value:g}"
