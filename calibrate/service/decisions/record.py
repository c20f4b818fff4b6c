"""Record of a decision: what is kept of it for good, and what clients read.

    DecisionRecord <-> JSON on disk, in answers, in batches' output files

A record never changes: what people say later is in reviews.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field

from calibrate.decision import Evidence
from calibrate.service.policies.policy import PolicyAction, PolicyOutcome
from wire.config import Config


class ClipShown(Config):
    """Clip of a decision, and what of it the model saw."""

    video_hash: str
    name: str
    """As the client called it: an upload's file name, a path, a URL without its query."""
    source: Literal["upload", "path", "url"]
    window: tuple[float, float] | None = None
    """First second, and the one before which it ends; null: the whole video."""
    frames: tuple[int, ...]
    """Numbers in the video of the frames that the model saw."""


class ReviewReason(Config):
    """Reason why a person must look: a code for filters, and words."""

    code: str
    text: str


class ControlShown(Config):
    """The same question about a view of the clip that lacks something: its frames in another order,
    backwards, or grey."""

    view: str
    label: str | None
    """Null: the view could not be answered."""
    label_changed: bool
    total_variation: float | None
    """Half the sum of |differences| between the probabilities: 0 equal, 1 disjoint."""
    probabilities: dict[str, float] = Field(default_factory=dict)
    failure: str | None = None
    meaning: str
    """What it would mean if nothing changed."""


class DecisionVersions(Config):
    """Versions of what decided."""

    classifier: int
    """Number in the registry."""
    classifier_hash: str
    policy: str
    """Of the weights that wrote the trace, attempt.step of their run."""
    calibrator: str
    """Hash of the calibration."""


class Seconds(Config):
    """Seconds that a decision took."""

    queue: float
    engine: float
    total: float


class DecisionRecord(Config):
    """Decision about one clip, whole.

    Example:
        DecisionRecord.model_validate_json(row["record"]).decision == "review"
    """

    id: str
    created_at: str
    """UTC."""
    sample_id: str
    """Seeds the trace: the client's own id of the clip, or the clip's hash."""
    clip: ClipShown
    label: str
    """The most probable."""
    confidence: float
    """Its calibrated probability."""
    probabilities: dict[str, float]
    """Calibrated."""
    prediction_set: tuple[str, ...]
    """Labels that the classifier cannot rule out, at its stated coverage."""
    decision: PolicyAction
    decided_by: Literal["threshold", "policies", "safety"]
    """What the action follows from: the classifier's own threshold, policies, or what is for review
    whatever they say."""
    reasons: tuple[ReviewReason, ...]
    """For a review; empty for the others."""
    policies: tuple[PolicyOutcome, ...]
    trace: str
    """The model's rationale, which is not the cause of the decision."""
    votes: dict[str, int] | None = None
    """Answers of sampled traces by label, where the classifier votes."""
    control: ControlShown | None = None
    versions: DecisionVersions
    review_id: str | None = None
    """Of the review that it opened; also where an automatic decision was drawn for an audit."""
    by: str
    """Name of the caller's token."""
    request_id: str
    seconds: Seconds

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.model_dump(mode="json")


def evidence_to_json(evidence: Evidence) -> str:
    """Evidence as strict JSON that keeps every bit of its logprobs; infinities and NaN as text.
    Logprobs of the trace's tokens are left out: no decision reads them."""
    values = asdict(evidence)
    del values["trace_logprobs"], values["trace"]
    values["logprobs"] = {
        source: [one if math.isfinite(one) else str(one) for one in map(float, row)]
        for source, row in evidence.logprobs.items()
    }
    return json.dumps(values, allow_nan=False)


def evidence_from_json(text: str, trace: str) -> Evidence:
    """The inverse of ``evidence_to_json``; ``trace``: from its record."""
    values: dict[str, Any] = json.loads(text)
    logprobs: Mapping[Any, Any] = values["logprobs"]
    return Evidence(
        trace=trace,
        parsed=values["parsed"],
        logprobs={source: tuple(map(float, row)) for source, row in logprobs.items()},
        votes=values["votes"],
        frames=tuple(values["frames"]),
        video_hash=values["video_hash"],
    )
