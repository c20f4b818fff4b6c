"""Explanation of a decision: recomputed from what is kept, and what each part of it means.

    stored evidence + registered classifier + policies as they were -> Explanation
    replay: the kept clip through the same classifier again          -> Replayed

Recomputing needs no engine and gives equal probabilities, bit for bit. A replay asks the engine,
and may differ by its arithmetic (batches, kernels): the largest difference is stated.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from calibrate.calibration import Calibration
from calibrate.calibrator import softmax
from calibrate.decision import Evidence
from calibrate.service.decisions.decisions import StoredDecision
from calibrate.service.decisions.outcome import Outcome, outcome_of
from calibrate.service.decisions.record import (
    ClipShown,
    ControlShown,
    DecisionRecord,
    DecisionVersions,
    ReviewReason,
)
from calibrate.service.policies.policy import ActivePolicy, PolicyAction, PolicyOutcome
from calibrate.service.state.registered import RegisteredClassifier
from wire.config import Config

AUTOMATED = "automated means"
_RATIONALE = (
    "the trace is the model's rationale: what it wrote before it answered, not the cause of the "
    "decision; a control (?control=shuffled, reversed or blank) shows what the answer depends on"
)


class Recomputed(Config):
    """Decision as it follows from what is kept."""

    label: str
    confidence: float
    probabilities: dict[str, float]
    prediction_set: tuple[str, ...]
    decision: PolicyAction
    reasons: tuple[ReviewReason, ...]
    policies: tuple[PolicyOutcome, ...]


class SourceShown(Config):
    """What one source said of the labels, before calibration."""

    weight: float
    """Of its logprobs in the sum that becomes probabilities; 0: it is not read."""
    logprobs: dict[str, float | str]
    """By label; what is not finite as text."""
    probabilities: dict[str, float]
    """Of this source alone, not calibrated."""


class PolicyExplained(Config):
    """A policy, and its threshold for this classifier."""

    id: str
    version: int
    owner: str
    promise: str
    """Its target in words."""
    threshold: str
    """Meaning of its threshold with n and bound, or why there is none."""
    why: str
    """What it said of this clip."""


class Replayed(Config):
    """The same clip through the same classifier again."""

    probabilities: dict[str, float]
    label: str
    same_label: bool
    same_trace: bool
    largest_difference: float
    """Between a calibrated probability then and now."""
    detail: str


class Explanation(Config):
    """Explanation of a decision."""

    id: str
    equal: bool
    """Whether all that was recomputed is equal to what was recorded: probabilities bit for bit."""
    differences: tuple[str, ...]
    """What is not; empty if equal."""
    recomputed: Recomputed
    formula: str
    """How probabilities follow from the sources: softmax over labels of this sum."""
    sources: dict[str, SourceShown]
    threshold: str
    """Meaning of the classifier's own threshold."""
    threshold_decides: bool
    """Whether that threshold decided; otherwise policies did, or a person must."""
    prediction_set: str
    """Meaning of the prediction set."""
    policies: tuple[PolicyExplained, ...]
    shown: ClipShown
    """What the model saw of the clip."""
    rationale: str
    rationale_note: str = _RATIONALE
    votes: dict[str, int] | None
    control: ControlShown | None
    detected_by: str = AUTOMATED
    decided_by: str
    """By automated means, by people, or still open."""
    outcome: str | None
    """Label that people gave; null without."""
    versions: DecisionVersions
    replay: Replayed | None = None


def explain(
    stored: StoredDecision,
    classifier: RegisteredClassifier,
    policies: Sequence[ActivePolicy],
    *,
    decided_by: str,
    outcome: str | None,
) -> Explanation:
    """Explain a decision. ``policies``: the versions that its record names; ``decided_by``,
    ``outcome``: what reviews say of it."""
    record, calibration = stored.record, classifier.calibration
    again = outcome_of(stored.evidence, calibration, policies, alarm_of(record))
    differences = tuple(_differences(record, again, classifier))
    return Explanation(
        id=record.id,
        equal=not differences,
        differences=differences,
        recomputed=Recomputed(
            label=again.decision.label,
            confidence=again.decision.confidence,
            probabilities=again.decision.probabilities,
            prediction_set=again.decision.prediction_set,
            decision=again.action,
            reasons=tuple(ReviewReason(code=one.code, text=one.text) for one in again.reasons),
            policies=again.policies,
        ),
        formula=calibration.calibrator.formula,
        sources=_sources(stored.evidence, calibration),
        threshold=calibration.thresholds[0].explanation
        if calibration.thresholds
        else "the classifier has no threshold",
        threshold_decides=again.decided_by == "threshold",
        prediction_set=_set_words(calibration),
        policies=tuple(
            PolicyExplained(
                id=one.policy.id,
                version=one.policy.version,
                owner=one.policy.owner,
                promise=one.policy.promise,
                threshold=one.explanation,
                why=result.why,
            )
            for one, result in zip(policies, again.policies, strict=True)
        ),
        shown=record.clip,
        rationale=record.trace,
        votes=record.votes,
        control=record.control,
        decided_by=decided_by,
        outcome=outcome,
        versions=record.versions,
    )


def alarm_of(record: DecisionRecord) -> str | None:
    """Words of the alarm of shift that stood when a decision was made."""
    return next((one.text for one in record.reasons if one.code == "shift_alarm"), None)


def replayed(record: DecisionRecord, again: Evidence, calibration: Calibration) -> Replayed:
    """What asking the engine again gave, beside what was recorded."""
    decision = outcome_of(again, calibration).decision
    gap = max(abs(decision.probabilities[name] - one) for name, one in record.probabilities.items())
    same_trace = again.trace == record.trace
    changed = "" if again.video_hash in ("", record.clip.video_hash) else "; the clip has changed"
    return Replayed(
        probabilities=decision.probabilities,
        label=decision.label,
        same_label=decision.label == record.label,
        same_trace=same_trace,
        largest_difference=gap,
        detail=f"asked again, the engine gives probabilities that differ by at most {gap:.2g}; the "
        f"trace is {'the same' if same_trace else 'another'}{changed}",
    )


def _differences(
    record: DecisionRecord, again: Outcome, classifier: RegisteredClassifier
) -> list[str]:
    own = again.decision
    pairs: Mapping[str, tuple[object, object]] = {
        "classifier": (record.versions.classifier_hash, classifier.hash),
        "probabilities": (_bits(record.probabilities), _bits(own.probabilities)),
        "label": (record.label, own.label),
        "prediction_set": (record.prediction_set, own.prediction_set),
        "decision": (record.decision, again.action),
        "reasons": ([o.code for o in record.reasons], [o.code for o in again.reasons]),
        "policies": ([_facts(o) for o in record.policies], [_facts(o) for o in again.policies]),
    }
    return [
        f"{name}: {one!r}, recomputed {two!r}" for name, (one, two) in pairs.items() if one != two
    ]


def _facts(outcome: PolicyOutcome) -> dict[str, object]:
    """What a policy said, without its words, which another version of the program may change."""
    return outcome.model_dump(exclude={"why"})


def _bits(probabilities: Mapping[str, float]) -> dict[str, str]:
    return {name: float(value).hex() for name, value in probabilities.items()}


def _sources(evidence: Evidence, calibration: Calibration) -> dict[str, SourceShown]:
    calibrator = calibration.calibrator
    names = calibrator.label_names
    shown = {}
    for source, row in evidence.logprobs.items():
        shown[str(source)] = SourceShown(
            weight=calibrator.weights.get(source, 0.0),
            logprobs={
                name: one if math.isfinite(one) else str(one)
                for name, one in zip(names, row, strict=True)
            },
            probabilities=dict(zip(names, softmax(np.array([row]))[0].tolist(), strict=True)),
        )
    return shown


def _set_words(calibration: Calibration) -> str:
    if not calibration.sets:
        return "the classifier has no prediction sets: all labels are in it"
    return calibration.sets[0].explanation
