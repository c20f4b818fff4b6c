"""The label set of a task, and the parser of the traces that name one of its labels."""

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
        folded = [label.name.casefold() for label in self.labels]
        if len(set(folded)) != len(folded):
            twice = sorted({name for name in folded if folded.count(name) > 1})
            raise ValueError(f"label names must differ, ignoring case; got {twice} twice")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Label names, sorted: index 0 is the first in the alphabet (DeepIntuit's order)."""
        return tuple(sorted(label.name for label in self.labels))

    def find(self, text: str) -> str | None:
        """The label that ``text`` spells, ignoring case and outer space; None if there is none."""
        wanted = text.strip().casefold()
        return next((name for name in self.names if name.casefold() == wanted), None)

    def answer_in(self, completion: str) -> str | None:
        """The label in the first answer block of a completion; None if it cannot be parsed."""
        answer = first_block(completion, "answer")
        return None if answer is None else self.find(answer)


def plain(text: str) -> str:
    """Plain form of a text, by which spellings are compared: case and the width of space are
    ignored."""
    return " ".join(text.casefold().split())


def reasoning_in(completion: str) -> str | None:
    """The text of the first think block, without outer space; None if there is none."""
    reasoning = first_block(completion, "think")
    return None if reasoning is None else reasoning.strip()


def first_block(text: str, tag: str) -> str | None:
    """Text between the first ``<tag>`` and the next ``</tag>``. One pass: models write anything."""
    inside, closed, _ = text.partition(f"<{tag}>")[2].partition(f"</{tag}>")
    return inside if closed else None
