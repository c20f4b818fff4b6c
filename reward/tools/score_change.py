"""Comparison of two rewards on the same traces: archived scores beside new ones. Pure.

Judged groups -> means per part and label, rank correlations, flipped best traces -> Change
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from reward.tools.score_file import Outcome, RescoredGroup

TOTAL = "total"


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """Mean values of one part (or the total) on clips of one label, or of all; over the traces that
    have it."""

    part: str
    label: str | None
    """None: all labels."""
    before: float | None
    now: float | None
    num_before: int
    num_now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Figures of two rewards side by side."""

    num_groups: int
    num_traces: int
    num_failed_before: int
    """Traces without a reward: failed, or none applied."""
    num_failed_now: int
    means: tuple[Means, ...]
    rank_correlation: float | None
    """Spearman's rho of the totals, over traces scored both times; None if one is constant."""
    rank_correlation_in_groups: float | None
    """Mean of the rank correlations within groups: GRPO compares traces within a group only."""
    num_ranked_groups: int
    """Groups whose totals differ both times: those that rank_correlation_in_groups is the mean
    of."""
    num_comparable: int
    """Groups with two traces or more that were scored both times."""
    num_flipped: int
    """Comparable groups whose winner changed: no trace that scored best before scores best now."""
    num_with_signal_before: int
    """Groups whose totals differ: the others teach nothing."""
    num_with_signal_now: int


def change_of(judged: Sequence[RescoredGroup]) -> Change:
    """All figures of rescored groups, in any order."""
    pairs = [_both(group) for group in judged]
    comparable = [pair for pair in pairs if len(pair) > 1]
    ranked = [rho for pair in comparable if (rho := rank_correlation(pair)) is not None]
    return Change(
        num_groups=len(judged),
        num_traces=sum(len(group.now) for group in judged),
        num_failed_before=sum(o.total is None for group in judged for o in group.before),
        num_failed_now=sum(o.total is None for group in judged for o in group.now),
        means=tuple(_means(judged)),
        rank_correlation=rank_correlation([value for pair in pairs for value in pair]),
        rank_correlation_in_groups=fmean(ranked) if ranked else None,
        num_ranked_groups=len(ranked),
        num_comparable=len(comparable),
        num_flipped=sum(flips(pair) for pair in comparable),
        num_with_signal_before=sum(_has_signal(group.before) for group in judged),
        num_with_signal_now=sum(_has_signal(group.now) for group in judged),
    )


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's rho, ties at their mean rank; None where either side has one value only."""
    if len({a for a, _ in pairs}) < 2 or len({b for _, b in pairs}) < 2:
        return None
    from scipy.stats import rankdata  # a second, which the command line does not need

    return float(np.corrcoef(rankdata(pairs, axis=0), rowvar=False)[0, 1])


def flips(pairs: Sequence[tuple[float, float]]) -> bool:
    """Whether no best trace of before is a best one now; ties are all best."""
    best = [max(pair[side] for pair in pairs) for side in (0, 1)]
    return not any(a == best[0] and b == best[1] for a, b in pairs)


def _both(group: RescoredGroup) -> list[tuple[float, float]]:
    totals = ((a.total, b.total) for a, b in zip(group.before, group.now, strict=True))
    return [(a, b) for a, b in totals if a is not None and b is not None]


def _has_signal(outcomes: Iterable[Outcome]) -> bool:
    return len({outcome.total for outcome in outcomes if outcome.total is not None}) > 1


def _means(judged: Sequence[RescoredGroup]) -> list[Means]:
    before, now = _columns(judged, "before"), _columns(judged, "now")
    labels = sorted({group.label for group in judged})
    parts = sorted({part for part, _ in [*before, *now]} - {TOTAL})
    return [
        _row(part, label, before.get((part, label), ()), now.get((part, label), ()))
        for part in (TOTAL, *parts)
        for label in (None, *labels)
    ]


def _columns(
    judged: Sequence[RescoredGroup], side: str
) -> Mapping[tuple[str, str | None], list[float]]:
    columns: dict[tuple[str, str | None], list[float]] = defaultdict(list)
    for group in judged:
        outcomes: tuple[Outcome, ...] = getattr(group, side)
        for outcome in outcomes:
            if outcome.total is None:
                continue
            for part, value in {TOTAL: outcome.total, **outcome.parts}.items():
                columns[part, None].append(value)
                columns[part, group.label].append(value)
    return columns


def _row(part: str, label: str | None, before: Sequence[float], now: Sequence[float]) -> Means:
    return Means(
        part=part,
        label=label,
        before=fmean(before) if before else None,
        now=fmean(now) if now else None,
        num_before=len(before),
        num_now=len(now),
    )
