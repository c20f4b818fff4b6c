"""Reward for temporal evidence: does the reasoning point at the right seconds of the clip.

r = |named & true| / |named | true|, in seconds, over the unions of the spans.

Temporal IoU, the reward of Time-R1 (arXiv 2503.13377) and VideoChat-R1 (arXiv 2504.06958) for one
span; unions make it hold for several, and naming everything does not pay.
"""

import re
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

from pydantic import Field

from reward.builtins.params import Params
from reward.context import RewardContext
from wire.errors import DataError
from wire.labels import plain, reasoning_in

Span = tuple[float, float]


class EvidenceIouParams(Params):
    """Parameters of ``evidence_iou``: the column of the true spans.

    Example:
        EvidenceIouParams(column="evidence")
    """

    column: str = Field(default="spans", min_length=1)
    """Manifest column: a list of [start, end] in seconds."""


# Every part is bounded, and space is one blank then: linear in the text.
_NUMBER = r"(\d{1,6}(?:\.\d{1,6})?)"
_UNIT = r"(?: ?(?:s|sec|secs|second|seconds)\b)"
_TO = r" ?(?:-|\u2013|\u2014|~|to|until|,) ?"
_TAGGED = re.compile(rf"<time> ?{_NUMBER}{_UNIT}?{_TO}{_NUMBER}{_UNIT}? ?</time>")
_PROSE = re.compile(rf"(?<![\w.]){_NUMBER}{_UNIT}?{_TO}{_NUMBER}{_UNIT}")


def evidence_iou(
    completion: str, label: str, context: RewardContext, *, column: str
) -> float | None:
    """Temporal IoU of the spans that the reasoning names with the sample's; None if the sample has
    none.

    Named spans are ``<time>1.5-3.0</time>``; without any such tag, "1.5s to 3.0s" and the like, the
    unit at least after the second number. No span, or none that ends after it begins: 0.

    Raises DataError if the column holds something else than spans.
    """
    given = context.extra.get(column)
    if given is None or (isinstance(given, Sequence) and len(given) == 0):
        return None
    return temporal_iou(spans_in(reasoning_in(completion) or ""), _true_spans(given, column))


def spans_in(text: str) -> list[Span]:
    """The time spans in seconds that a text names, in order; tagged ones win over prose."""
    words = plain(text)
    matches = _TAGGED.findall(words) or _PROSE.findall(words)
    spans = [(float(start), float(end)) for start, end in matches]
    return [(start, end) for start, end in spans if start < end]


def temporal_iou(named: Iterable[Span], true: Iterable[Span]) -> float:
    """Seconds in both unions over seconds in either; 0 if both are empty."""
    ours, theirs = _merged(named), _merged(true)
    overlaps = [min(a[1], b[1]) - max(a[0], b[0]) for a in ours for b in _near(a, theirs)]
    shared = sum(overlap for overlap in overlaps if overlap > 0)
    either = sum(end - start for start, end in [*ours, *theirs]) - shared
    return shared / either if either > 0 else 0.0


def _near(span: Span, others: Sequence[Span]) -> Iterable[Span]:
    return (other for other in others if other[0] < span[1] and span[0] < other[1])


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Union of spans, as spans that do not touch, in order."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _true_spans(given: Any, column: str) -> list[Span]:
    if isinstance(given, Sequence) and len(given) == 2 and all(_is_number(v) for v in given):
        given = [given]
    spans = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    for span in spans:
        if not (_is_pair(span) and 0 <= span[0] < span[1] < float("inf")):
            raise DataError(
                f"column {column!r} holds {span!r}; expected a list of [start, end] in seconds, "
                "0 <= start < end"
            )
    return [(float(start), float(end)) for start, end in spans]


def _is_pair(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and len(value) == 2 and all(_is_number(number) for number in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
