"""The label set of a task, and the parser of the traces that name one of its labels."""

import unicodedata
from functools import cached_property

from pydantic import Field, model_validator

from wire.config import Config


class Label(Config):
    """One class of the task."""

    name: str = Field(min_length=1)
    """The word written in manifests and inside the answer block."""
    definition: str = ""
    """What the label means, for the prompt: a sentence, pages, or ``{ file = "a.txt" }``."""

    @model_validator(mode="after")
    def _plain_name(self) -> "Label":
        if self.name != self.name.strip() or any(c in self.name for c in "<>\n"):
            raise ValueError(
                f"label name {self.name!r} must be plain text: no outer spaces, line breaks, < or >"
            )
        return self


class LabelSet(Config):
    """All labels of a task, in the order in which scores are reported: sorted by name.

    Example:
        LabelSet(labels=(Label(name="abnormal"), Label(name="normal")))
    """

    labels: tuple[Label, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _distinct(self) -> "LabelSet":
        same: dict[str, list[str]] = {}
        for label in self.labels:
            same.setdefault(plain(label.name), []).append(label.name)
        if twice := [names for names in same.values() if len(names) > 1]:
            raise ValueError(
                "label names must differ, ignoring case, the width of space and how accents are "
                f"encoded; got {' and '.join(map(ascii, twice))}; rename or merge them"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Label names, sorted: index 0 is the first in the alphabet (DeepIntuit's order)."""
        return tuple(sorted(label.name for label in self.labels))

    def find(self, text: str) -> str | None:
        """The label that ``text`` spells, ignoring case, the width of space and how accents are
        encoded; None if there is none. A label's name with more words is another label."""
        return self._by_spelling.get(plain(text))

    @cached_property
    def _by_spelling(self) -> dict[str, str]:
        return {plain(label.name): label.name for label in self.labels}

    def answer_in(self, completion: str) -> str | None:
        """The label in the first answer block of a completion; None if it cannot be parsed."""
        answer = first_block(completion, "answer")
        return None if answer is None else self.find(answer)


def plain(text: str) -> str:
    """Plain form of a text, by which spellings are compared: case, the width of space and how
    accents are encoded (NFC or NFD, as macOS writes file names) are ignored."""
    return " ".join(unicodedata.normalize("NFC", text.casefold()).split())


def reasoning_in(completion: str) -> str | None:
    """The text of the first think block, without outer space; None if there is none."""
    reasoning = first_block(completion, "think")
    return None if reasoning is None else reasoning.strip()


def first_block(text: str, tag: str) -> str | None:
    """Text between the first ``<tag>`` and the next ``</tag>``. One pass: models write anything."""
    inside, closed, _ = text.partition(f"<{tag}>")[2].partition(f"</{tag}>")
    return inside if closed else None
