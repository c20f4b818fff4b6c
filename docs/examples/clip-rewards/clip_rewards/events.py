"""Does the reasoning name the clip's events, and in their order?"""

from collections.abc import Mapping, Sequence
from typing import Any


def ordered_events(
    solution_str: str,
    ground_truth: str,
    events: Sequence[str] = (),
    extra_info: Mapping[str, Any] | None = None,
) -> dict[str, float] | None:
    """The share of the column ``events`` that the trace names one after another; verl's shape.

    None where the row has no events: the reward does not apply to that clip. ``num_named`` is
    logged beside the score.
    """
    if not events:
        return None
    named, place, text = 0, 0, solution_str.casefold()
    for event in events:
        found = text.find(event.casefold(), place)
        if found >= 0:
            named, place = named + 1, found + len(event)
    return {"score": named / len(events), "num_named": float(named)}
