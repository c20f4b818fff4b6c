"""Record that every format is read into: one clip as one source describes it, or why there is none.

format module: parse(where, row) -> Record | LeftOut -> (join.py) -> Clip
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wire.types import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """Reasoning about a clip and the label it ends with; not yet compared with the clip's label.

    Example:
        Reasoning(text="A dog sleeps on the porch.", answer="Normal")
    """

    text: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of a longer video, in seconds from its start.

    Example:
        Window(start_s=12.0, end_s=22.0)
    """

    start_s: float
    end_s: float
    """Infinity: the video's end."""

    def overlaps(self, other: "Window") -> bool:
        """Whether both show some of the same moments."""
        return self.start_s < other.end_s and other.start_s < self.end_s


@dataclass(frozen=True, slots=True)
class Numbered:
    """An answer that is the number of an option, from 0 or from 1.

    Example:
        Numbered(number=2, texts=("fall", "jump", "sit"))
    """

    number: int
    texts: tuple[str, ...]

    def text(self, base: int) -> str | None:
        """Text of the option where ``base`` is the first one's number; None if there is none."""
        place = self.number - base
        return self.texts[place] if 0 <= place < len(self.texts) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One clip as one source describes it.

    Example:
        Record(id="porch_0007", where="labels.json record 3", videos=("/data/porch_0007.mp4",),
               label="normal")
    """

    id: str
    """The clip's, without what a task appends to it: records of one clip are joined by it."""
    where: str
    """File and place, for messages."""
    videos: tuple[str, ...]
    """As written in the source, the likeliest first; often paths of another machine."""
    untrimmed: tuple[str, ...] = ()
    """Names of the longer video that ``window`` is a part of."""
    window: Window | None = None
    """Used only if the user says that the videos are untrimmed, or if the record does."""
    is_part: bool = False
    """Whether the record says itself that its video is longer: our own columns start_s, end_s."""
    split: Split | None = None
    """The source's own; none: what the user says."""
    label: str | None = None
    """Label that the source states."""
    numbered: Numbered | None = None
    """Instead of a label: the number of an option, which all rows together make one of."""
    question: str = ""
    """What the label answers, as text by which two questions are compared; empty if unknown."""
    has_options: bool = False
    """Whether its row is multiple choice."""
    fallback_label: str | None = None
    """Believed only where no record of the clip has a ``label``."""
    reasoning: Reasoning | None = None
    side_text: Mapping[str, str] = field(default_factory=dict)
    """Name -> text that came with the clip. Often tells the label: used only if asked for."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the source, kept in the manifest."""
    conflicts: tuple[str, ...] = ()
    """Contradictions to ``label`` in the record."""
    notes: tuple[str, ...] = ()
    """Notes on parts that were left out or ignored, in words to be counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A row that is no clip to classify, which is no mistake of the source.

    Example:
        LeftOut(id="12", reason="rows left out: 'image' rows show no video")
    """

    id: str
    reason: str
    """In words to be counted."""
