"""Answer of a rationale: the label that it ends with, and its reasoning without that.

    text -> <answer> block, or else the last line "Classification: LABEL" -> label, reasoning

Strict: what is not clearly one label is none (seeds.md 2.2 counts such lines in RB-FT's data).
"""

import re
from dataclasses import dataclass

from wire.labels import LabelSet, first_block

_MARKUP = " \t*_`\"'#."


@dataclass(frozen=True, slots=True)
class Concluded:
    """Parts of a rationale.

    Example:
        conclude("He slips.\\n**Classification:** Fall.", labels, "Classification")
        == Concluded(reasoning="He slips.", answer="fall")
    """

    reasoning: str
    """The text without what names the answer; without outer space and think tags."""
    answer: str | None


def conclude(text: str, labels: LabelSet, closing: str) -> Concluded:
    """The label that a rationale ends with, and its reasoning. ``closing``: the word before the
    colon of its last line."""
    block = first_block(text, "answer")
    if block is not None:
        return Concluded(
            _plain(text.replace(f"<answer>{block}</answer>", "", 1)), labels.find(block)
        )
    lines = text.splitlines()
    for number in reversed(range(len(lines))):
        before, colon, name = lines[number].partition(":")
        if colon and _same(before, closing):
            rest = "\n".join(lines[:number] + lines[number + 1 :])
            return Concluded(_plain(rest), labels.find(name.strip(_MARKUP)))
    return Concluded(_plain(text), None)


def _same(word: str, closing: str) -> bool:
    return word.strip(_MARKUP).casefold() == closing.strip().casefold()


def _plain(text: str) -> str:
    return re.sub(r"</?think>", "", text).strip()
