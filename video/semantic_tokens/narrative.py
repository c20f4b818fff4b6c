"""Narrative of a clip: runs of equal codes, as text, and its controls.

    codes (3, 3, 3, 7) -> runs (Run(3, 3), Run(7, 1)) -> "grow x3, left"
                                                      or "<act_3> x3 <act_7>"

Controls change the runs, not the codes, so that a narrative keeps its form: whole actions move,
vanish or are replaced. Their randomness comes from the clip, so the same clip gives the same text
in every process. Durations count segments. Imports nothing heavy.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from video.semantic_tokens.config import Style
from wire.types import stable_hash

NOTHING = "nothing"
"""Text of a narrative without runs."""


@dataclass(frozen=True, slots=True)
class Run:
    """Run of equal codes.

    Example:
        Run(code=17, duration=3)
    """

    code: int
    duration: int
    """Segments that the code lasts."""

    def __post_init__(self) -> None:
        if self.code < 0 or self.duration < 1:
            raise ValueError(f"{self}: a code is at least 0, a duration at least 1 segment")


Runs = tuple[Run, ...]


def runs(codes: Sequence[int]) -> Runs:
    """Runs of a clip's codes, in order."""
    grouped = ((code, len(list(equal))) for code, equal in itertools.groupby(codes))
    return tuple(Run(int(code), length) for code, length in grouped)


def by_name(codes: Sequence[int], names: Sequence[str]) -> tuple[int, ...]:
    """Codes with one code for each name: the first that has it. Of these, runs are whole
    actions."""
    first: dict[str, int] = {}
    for code, name in enumerate(names):
        first.setdefault(name, code)
    return tuple(first[names[code]] for code in codes)


def codes_of(narrative: Sequence[Run]) -> tuple[int, ...]:
    """Codes, one per segment, of which runs were made."""
    return tuple(code for run in narrative for code in [run.code] * run.duration)


def narrative_text(narrative: Sequence[Run], names: Sequence[str], style: Style = "names") -> str:
    """Text of a narrative. ``names``: one per code; neighbours that have the same name are one
    action."""
    if not narrative:
        return NOTHING
    if style == "ids":
        return " ".join(_lasting(f"<act_{run.code}>", run.duration) for run in _merged(narrative))
    named = ((names[run.code], run.duration) for run in narrative)
    actions = itertools.groupby(named, key=lambda action: action[0])
    return ", ".join(_lasting(name, sum(length for _, length in same)) for name, same in actions)


def shuffled(narrative: Sequence[Run], clip: str) -> Runs:
    """The same actions in another order, unless all are alike. ``clip`` decides it."""
    order = sorted(range(len(narrative)), key=lambda i: stable_hash("shuffled", clip, i))
    mixed = [narrative[i] for i in order]
    if [run.code for run in mixed] == [run.code for run in narrative]:
        mixed = [*mixed[-1:], *mixed[:-1]]
    return _merged(mixed)


def reversed_runs(narrative: Sequence[Run]) -> Runs:
    """The same actions from last to first."""
    return tuple(narrative[::-1])


def dropped(narrative: Sequence[Run], share: float, clip: str) -> Runs:
    """A narrative without this share of its actions, at least one of them; the others keep their
    order. ``clip`` decides which."""
    if not 0 < share <= 1:
        raise ValueError(f"share={share}; expected a share of the actions above 0 and up to 1")
    count = min(len(narrative), max(1, math.floor(share * len(narrative) + 0.5)))
    by_hash = sorted(range(len(narrative)), key=lambda i: stable_hash("dropped", clip, i))
    gone = set(by_hash[:count])
    return _merged([run for i, run in enumerate(narrative) if i not in gone])


def random_codes(narrative: Sequence[Run], num_codes: int, clip: str) -> Runs:
    """Codes drawn evenly from the codebook, with the durations of a clip. ``clip`` decides
    them."""
    return _merged(
        [
            replace(run, code=int(stable_hash("random", clip, i), 16) % num_codes)
            for i, run in enumerate(narrative)
        ]
    )


def _merged(narrative: Sequence[Run]) -> Runs:
    return runs(codes_of(narrative))


def _lasting(action: str, duration: int) -> str:
    return action if duration == 1 else f"{action} x{duration}"
