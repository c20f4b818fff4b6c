"""Protocols of the service: what it needs of engines, decoders and learners, which it never sees.

    ClipInspector      container of a clip -> ClipFacts, or why it is refused; nothing is decoded
    ClassifierBackend  classifier directory -> OpenClassifier (engines that are up)
    OpenClassifier     clip -> Evidence, or a typed Failure
    TraceBrowser       archives -> pages of traces
    ReviewQueue        what decisions hand to people

``cluster/serving/`` implements them: vLLM in processes of this machine, in Ray Serve, or behind a
remote server. Tests of the service use small classes of their own.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from calibrate.decision import Evidence
from wire.types import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipToClassify:
    """Clip to classify, on this machine's disk.

    Example:
        ClipToClassify(id="9f3c...", path=Path("state/clips/9f/9f3c.mp4"))
    """

    id: str
    """Seeds the trace: the same id, clip and classifier give the same trace."""
    path: Path
    window: tuple[float, float] | None = None
    """First second, and the one before which it ends; none: the whole video."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Texts that the classifier's prompts show of each clip, by column."""
    text: str | None = None
    """Text of the clip, where prompts show one (title, speech)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """Facts about a clip that its container states."""

    seconds: float
    frames: int
    width: int
    height: int
    codec: str


class OpenClassifier(Protocol):
    """A classifier whose engines are up. Safe to call for many clips at a time."""

    async def evidence(self, clip: ClipToClassify, view: str | None = None) -> Evidence | Failure:
        """Evidence about a clip, or the failure in its place. ``view``: shuffled, blank or
        reversed frames in place of the clip's. Raises GenerationError or WorkerDied if its
        processes have ended."""
        ...

    async def close(self) -> None:
        """End its processes; after it no call is answered."""
        ...


class ClassifierBackend(Protocol):
    """Opens classifiers: starts their engines."""

    async def open(self, directory: Path) -> OpenClassifier:
        """Start a published classifier. Raises ConfigError, DataError, GenerationError or
        DeadlineExceeded if it does not start."""
        ...

    async def close(self) -> None:
        """End what all its classifiers share."""
        ...


class ClipInspector(Protocol):
    """Reads the containers of clips in killable processes."""

    async def inspect(self, path: Path) -> ClipFacts:
        """Facts of a file, at most one frame of it decoded. Raises NoVideo, ClipTimedOut if reading
        it took too long, ClipError if it is damaged."""
        ...

    async def frames(self, path: Path, numbers: Sequence[int]) -> list[bytes]:
        """Frames of a file by their numbers in it, as PNG. Raises ClipError."""
        ...

    async def close(self) -> None:
        """End its processes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePage:
    """Page of archived traces."""

    rows: list[dict[str, Any]]
    next_cursor: str | None
    """Of the next page; none: this is the last."""


class TraceBrowser(Protocol):
    """Browses trace archives."""

    def names(self) -> list[str]:
        """Names of the archives."""
        ...

    def summary(self, archive: str) -> dict[str, Any]:
        """Counts of an archive: groups, traces, failed, tokens, files, bytes, and in ``counts`` by
        attempt, purpose, split and label. Raises DataError for an unknown one, ArchiveError."""
        ...

    def page(self, archive: str, where: Sequence[str], limit: int, cursor: str | None) -> TracePage:
        """Traces of an archive that meet all conditions (docs/archive.md), in its order. Raises
        DataError for an unknown archive, column or cursor."""
        ...

    def trace(self, archive: str, trace_id: str) -> dict[str, Any]:
        """One trace, whole, with its prompt. Raises DataError if there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReview:
    """Review that a decision opens."""

    id: str
    decision_id: str
    video_hash: str
    label: str
    """That the classifier gave."""
    kind: Literal["review", "audit"]
    """``audit``: the decision was automatic, and drawn at random."""
    reasons: tuple[str, ...]
    """Codes."""
    weight: float
    """Decisions that it stands for: 1 / share of the draw."""
    created_at: str
    """UTC, ISO 8601."""


class ReviewQueue(Protocol):
    """Queue of reviews, as decisions see it."""

    def open(self, connection: sqlite3.Connection, review: NewReview) -> None:
        """Add a review, in the transaction of its decision."""
        ...

    def opened(self, review: NewReview) -> None:
        """Keep the clip of a review that is on disk."""
        ...
