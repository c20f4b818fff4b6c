"""Answers that only all rows of a source together give a meaning.

    number of an option -> counted from 0 or from 1? -> its text
    yes, no, 3          -> a label if every row asks the same, else left out

A row by itself cannot tell either.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rollout.importers.choices import LETTER, NO_OPTION, is_key
from rollout.importers.record import LeftOut, Numbered, Record

UNCLEAR_NUMBER = (
    "rows left out: the answer is the number of an option, and no row tells whether they count "
    "from 0 or from 1; write the option's letter or text"
)
OWN_QUESTION = (
    "rows left out: 'yes', 'no', a number or a letter that answers a question of its own, which "
    "our prompts do not ask; where it means the same in every row, take the questions out"
)

_BARE = re.compile(r"yes|no|true|false|[+-]?\d+(?:\.\d+)?", re.IGNORECASE)


def settle(
    outcomes: Iterable[Record | LeftOut], *, numbers_have_names: bool = False
) -> list[Record | LeftOut]:
    """The records of one source, each with a label that means the same in all its rows.

    ``numbers_have_names``: the user says what the numbers mean.
    """
    settled = list(outcomes)
    records = [each for each in settled if isinstance(each, Record)]
    base = _base([each.numbered for each in records if each.numbered])
    asks_one = numbers_have_names or len({each.question for each in records}) <= 1
    is_choice = any(each.has_options for each in records)
    return [
        each
        if isinstance(each, LeftOut)
        else _settled(each, base, asks_one=asks_one, is_choice=is_choice)
        for each in settled
    ]


def _settled(
    record: Record, base: int | None, *, asks_one: bool, is_choice: bool
) -> Record | LeftOut:
    if record.numbered is not None:
        if base is None:
            return LeftOut(id=record.id, reason=UNCLEAR_NUMBER)
        text = record.numbered.text(base)
        if text is None:
            return LeftOut(id=record.id, reason=NO_OPTION)
        return _with_label(record, record.numbered, text, base)
    if is_choice and not record.has_options and is_key(record.label):
        return LeftOut(id=record.id, reason=LETTER)
    if not asks_one and record.question and record.label and _is_bare(record.label):
        return LeftOut(id=record.id, reason=OWN_QUESTION)
    return record


def _is_bare(label: str) -> bool:
    return is_key(label) or _BARE.fullmatch(label) is not None


def _with_label(record: Record, numbered: Numbered, text: str, base: int) -> Record:
    reasoning = record.reasoning
    if reasoning and reasoning.answer.isdigit():
        named = replace(numbered, number=int(reasoning.answer)).text(base)
        reasoning = replace(reasoning, answer=named or reasoning.answer)
    return replace(record, label=text, numbered=None, reasoning=reasoning)


def _base(answers: Sequence[Numbered]) -> int | None:
    """The number of the first option; None if the answers tell neither, or both."""
    has_zero = any(answer.number == 0 for answer in answers)
    has_last = any(answer.number == len(answer.texts) for answer in answers)
    return None if has_zero == has_last else int(has_last)
