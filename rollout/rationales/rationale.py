"""Rationale: what a model wrote about a labelled clip to be learned from, and whether it is kept.

    Completion -> text -> Judge (judge.py) -> Rationale -> rationales.jsonl of a stage

RB-FT (arXiv 2511.15923; seeds.md 2) learns from rationales before it learns from labels.
"""

from dataclasses import dataclass
from enum import StrEnum


class Dropped(StrEnum):
    """Why a rationale is not kept: the first of these that holds, in this order."""

    EMPTY = "empty"
    """Nothing but space."""
    TRUNCATED = "truncated"
    """Cut by the token limit."""
    LEAK = "leak"
    """Speaks of the label that it was given."""
    PARSE = "parse"
    """Names no label at its end, though it was asked to."""
    CONTRADICTION = "contradiction"
    """Names another label than the clip's, at its end or in a closing line before that."""
    DUPLICATE = "duplicate"
    """An earlier one of the same clip, which is kept, has the same text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rationale:
    """A rationale, or a caption, of one clip.

    Example:
        Rationale(id="train-0001", video="clips/train-0001.mp4", label="fall",
                  text="He slips.\\nClassification: fall", answer="fall", kept=True, reason="",
                  group_id="rationales/rationale/train-0001", index=0)
    """

    id: str
    """Of the sample."""
    video: str
    label: str
    """The clip's, of the manifest."""
    text: str
    """As it was written, without the end-of-turn token."""
    answer: str | None
    """The label that it ends with; None: none can be parsed."""
    kept: bool
    """Whether it is to be learned from."""
    reason: str
    """Why it is not kept (:class:`Dropped`); empty if it is."""
    group_id: str
    """Of its group in the archive."""
    index: int
    """Its number in the group."""
