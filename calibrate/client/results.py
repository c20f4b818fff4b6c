"""Results of the service's answers, typed. ``raw`` has the whole answer, later fields too."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Reason for a review: a code for filters, and words."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The answer about a view of the clip (shuffled, blank, reversed) beside that about itself."""

    view: str
    label: str | None
    """None: the view could not be answered."""
    label_changed: bool
    total_variation: float | None
    """Half the sum of |differences| between the probabilities: 0 equal, 1 disjoint."""
    probabilities: Mapping[str, float]
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """Versions of what decided."""

    classifier: int
    classifier_hash: str
    policy: str
    calibrator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Decision about a clip.

    Example:
        decision.label, decision.confidence, decision.action  # "undo", 0.93, "auto"
    """

    id: str
    created_at: str
    label: str
    confidence: float
    """Calibrated probability of the label."""
    probabilities: Mapping[str, float]
    prediction_set: tuple[str, ...]
    action: str
    """auto, review or pass."""
    reasons: tuple[Reason, ...]
    """For a review."""
    trace: str
    """The model's rationale, which is not the cause of the decision."""
    frames: tuple[int, ...]
    """Numbers in the video of the frames that the model saw."""
    versions: Versions
    votes: Mapping[str, int] | None
    control: Control | None
    review_id: str | None
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The decision of an answer, or of a line of a batch's output."""
        control = values.get("control")
        return cls(
            **{name: values[name] for name in ("id", "created_at", "label", "confidence")},
            probabilities=values["probabilities"],
            prediction_set=tuple(values["prediction_set"]),
            action=values["decision"],
            reasons=tuple(Reason(code=o["code"], text=o["text"]) for o in values["reasons"]),
            trace=values["trace"],
            frames=tuple(values["clip"]["frames"]),
            versions=Versions(**_known(Versions, values["versions"])),
            votes=values.get("votes"),
            control=None if control is None else Control(**_known(Control, control)),
            review_id=values.get("review_id"),
            raw=values,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """Registered classifier."""

    version: int
    hash: str
    name: str
    method: str
    label_names: tuple[str, ...]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The classifier of an answer."""
        plain = {name: values[name] for name in ("version", "hash", "name", "method")}
        return cls(**plain, label_names=tuple(values["label_names"]), raw=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Batch of requests."""

    id: str
    status: str
    total: int
    completed: int
    failed: int
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in ("completed", "failed", "expired", "cancelled")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The batch of an answer."""
        names = ("id", "status", "input_file_id", "output_file_id", "error_file_id")
        counts = {name: values["request_counts"][name] for name in ("total", "completed", "failed")}
        return cls(**{name: values[name] for name in names}, **counts, raw=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Job of a fit."""

    id: str
    status: str
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in ("succeeded", "failed", "cancelled")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The job of an answer."""
        return cls(id=values["id"], status=values["status"], raw=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """Review of a decision by a person."""

    id: str
    decision_id: str
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The review of an answer."""
        return cls(id=values["id"], decision_id=values["decision_id"], raw=values)


def _known(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in kind.__slots__ if name in values}
