"""Answer of a rationale: the label that it ends with, and its reasoning without that.

    text -> <answer> block, or else the last line "Classification: LABEL" -> label, reasoning

Strict: what is not clearly one label is none. An earlier such line counts, too: of RB-FT's released
rationales, which all end with a line that names the true label, some say before it that the clip
has another.
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
        == Concluded(reasoning="He slips.", answer="fall", named=frozenset({"fall"}))
    """

    reasoning: str
    """The text without what names the answer; without outer space and think tags."""
    answer: str | None
    named: frozenset[str] = frozenset()
    """All labels that such lines name, the answer's included."""


def conclude(text: str, labels: LabelSet, closing: str) -> Concluded:
    """The label that a rationale ends with, and its reasoning. ``closing``: the word before the
    colon of its last line."""
    block = first_block(text, "answer")
    if block is not None:
        rest = text.replace(f"<answer>{block}</answer>", "", 1)
        answer = labels.find(block)
        return Concluded(_plain(rest), answer, frozenset({answer} if answer else ()))
    lines = text.splitlines()
    closings = {
        number: labels.find(name.strip(_MARKUP))
        for number, (before, colon, name) in enumerate(line.partition(":") for line in lines)
        if colon and _same(before, closing)
    }
    if not closings:
        return Concluded(_plain(text), None)
    last = max(closings)
    rest = "\n".join(lines[:last] + lines[last + 1 :])
    named = frozenset(name for name in closings.values() if name is not None)
    return Concluded(_plain(rest), closings[last], named)


def _same(word: str, closing: str) -> bool:
    return word.strip(_MARKUP).casefold() == closing.strip(_MARKUP).casefold()


def _plain(text: str) -> str:
    return re.sub(r"</?think>", "", text).strip()
