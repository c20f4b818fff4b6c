"""What every format is read into: one clip as one file describes it.

format module: read(path) -> Iterator[Record] -> (join.py) -> Clip
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """Reasoning about a clip and the label it ends with; not yet compared with the clip's label.

    Example:
        Reasoning(text="A dog sleeps on the porch.", answer="Normal")
    """

    text: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One clip as one source describes it.

    Example:
        Record(id="porch_0007", where="labels.json record 3", video="/data/porch_0007.mp4",
               label="normal")
    """

    id: str
    """The clip's, without what a task appends to it: records of one clip are joined by it."""
    where: str
    """File and place, for messages."""
    video: str
    """As written in the source; often a path of another machine."""
    label: str | None = None
    """What the source is believed to say."""
    fallback_label: str | None = None
    """Believed only where no record of the clip has a ``label``."""
    reasoning: Reasoning | None = None
    side_text: Mapping[str, str] = field(default_factory=dict)
    """Name -> text that came with the clip. Often tells the label: used only if asked for."""
    conflicts: tuple[str, ...] = ()
    """What in the record contradicts ``label``."""
    notes: tuple[str, ...] = ()
    """What was left out or ignored, in words to be counted."""
