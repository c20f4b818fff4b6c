"""Explanation of an answer, checked against the action narrative that its writer was shown.

"one left two up. turn" + the events left, up, grow  -> named (left, up)
named + narrated (left, grow)                        -> 1 of 2 named events is in the narrative
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """Support of one explanation by its narrative: counts of different events.

    Example:
        Support(num_named=2, num_supported=1, num_narrated=2)
    """

    num_named: int
    """Events that the explanation names."""
    num_supported: int
    """Of these, the events that the narrative tells."""
    num_narrated: int
    """Events that the narrative tells."""


class EventNames:
    """Finder of events by name: whole words, in any case; a longer name is found before a name
    that is part of it ("left hand" is no "left")."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {" ".join(name.casefold().split()): name for name in names}
        self._names.pop("", None)
        ordered = sorted(self._names, key=lambda name: (-len(name), name))
        words = (r"\s+".join(map(re.escape, name.split())) for name in ordered)
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)") if ordered else None

    def named_in(self, text: str) -> tuple[str, ...]:
        """Different events that a text names, in the order in which they are first named."""
        if self._pattern is None:
            return ()
        places = (" ".join(place.split()) for place in self._pattern.findall(text.casefold()))
        return tuple(dict.fromkeys(self._names[place] for place in places))

    def support(self, explanation: str, narrated: Collection[str]) -> Support:
        """Support of an explanation by the names of the events that its narrative tells."""
        named, events = set(self.named_in(explanation)), set(narrated)
        return Support(
            num_named=len(named), num_supported=len(named & events), num_narrated=len(events)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportFigures:
    """Support of many explanations, as shares of events; None where nothing is counted."""

    supported_frac: float | None
    """Share of the named events that the clip's own narrative tells."""
    elsewhere_frac: float | None
    """The same against the narrative of another clip: what an explanation reaches that reads no
    narrative."""
    coverage: float | None
    """Share of the narrated events that the explanation names."""
    num_named: int
    num_unnamed: int
    """Explanations that name no event."""


def support_figures(own: Iterable[Support], elsewhere: Iterable[Support]) -> SupportFigures:
    """Figures of explanations, each against its own narrative and against another clip's."""
    counted, others = list(own), list(elsewhere)
    named = sum(one.num_named for one in counted)
    supported = sum(one.num_supported for one in counted)
    return SupportFigures(
        supported_frac=_share(supported, named),
        elsewhere_frac=_share(
            sum(one.num_supported for one in others), sum(one.num_named for one in others)
        ),
        coverage=_share(supported, sum(one.num_narrated for one in counted)),
        num_named=named,
        num_unnamed=sum(not one.num_named for one in counted),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
