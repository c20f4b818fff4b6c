"""Outcome of a decision: follows from evidence, calibration, alarm and policies alone.

    Evidence + Calibration -> probabilities -> decide (calibrate/decision.py) -> Outcome
                                            -> each policy's outcome         -> its action

The order of what counts: a clip that cannot be read, an empty set or an alarm is for review,
always; then a policy that asks for review; then one that acts alone (auto before pass). Policies
that act alone stand in place of the classifier's own threshold: with any, what none of them fires
at is for review. Pure: replayed by ``explain`` to equal probabilities, bit for bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from calibrate.calibration import Calibration
from calibrate.decision import Decision, Evidence, decide
from calibrate.service.policies.policy import ActivePolicy, PolicyAction, PolicyOutcome
from calibrate.thresholds.label_threshold import usable_rows

_ALWAYS = ("no_trace", "unparsed", "shift_alarm", "empty_set")
_OWN_THRESHOLD = ("no_threshold", "below_threshold")


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Reason for a review, as a code for filters and in words."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of a decision."""

    decision: Decision
    """The classifier's own, without policies."""
    action: PolicyAction
    decided_by: Literal["threshold", "policies", "safety"]
    """What the action follows from: the classifier's own threshold, policies, or what is for review
    whatever they say."""
    reasons: tuple[Why, ...]
    """For review; none for the others."""
    policies: tuple[PolicyOutcome, ...]


def outcome_of(
    evidence: Evidence,
    calibration: Calibration,
    policies: Sequence[ActivePolicy] = (),
    alarm: str | None = None,
) -> Outcome:
    """Outcome for a clip. ``alarm``: words of a shift alarm that stood when it was answered."""
    calibrator = calibration.calibrator
    rows = {name: np.array([values], np.float64) for name, values in evidence.logprobs.items()}
    probabilities = calibrator.probabilities(rows)
    # as the held-out clips were counted when thresholds were fitted (calibrate/choice.py)
    read = evidence.parsed and not any(np.isnan(rows[name]).any() for name in calibrator.sources)
    own = decide(probabilities[0], calibration, alarm=alarm, parsed=read)
    first = calibration.sets[0] if calibration.sets else None
    usable = bool(usable_rows(probabilities, [read], first)[0])
    names = calibrator.label_names
    return combined(own, tuple(one.outcome(probabilities[0], usable, names) for one in policies))


def combined(own: Decision, policies: tuple[PolicyOutcome, ...]) -> Outcome:
    """Outcome of the classifier's own decision and what each policy says."""
    always = [Why(code=one.code, text=one.text) for one in own.reasons if one.code in _ALWAYS]
    threshold = [Why(code=o.code, text=o.text) for o in own.reasons if o.code in _OWN_THRESHOLD]
    asked = list(_asked_for(policies))
    acting = [one.action for one in policies if one.fires and one.action != "review"]
    has_acting = any(one.action != "review" for one in policies)
    unmet = [] if acting else [_NONE_FIRES] if has_acting else threshold
    reasons = (*always, *asked, *unmet)
    action: PolicyAction = "auto" if not acting or "auto" in acting else "pass"
    return Outcome(
        decision=own,
        action="review" if reasons else action,
        decided_by="safety" if always else "policies" if has_acting or asked else "threshold",
        reasons=reasons,
        policies=policies,
    )


_NONE_FIRES = Why(
    code="no_policy", text="no policy that acts without a person fires for the most probable label"
)


def _asked_for(policies: Sequence[PolicyOutcome]) -> Iterator[Why]:
    for one in policies:
        if one.fires and one.action == "review":
            yield Why(code="policy", text=f"policy {one.id} asks for a review: {one.why}")
