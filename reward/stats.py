"""What the rewards of a step look like, and whether too many of them failed. Pure functions.

TraceGroups -> {"reward/mean": ..., ...};  the loop logs them
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, pstdev

from wire.errors import TooManyFailures
from wire.types import Failure, FailureKind, Score, Trace, TraceGroup


def summarise(groups: Sequence[TraceGroup]) -> dict[str, float]:
    """Figures of one step. A figure without data (no trace scored) is left out, not zero.

    reward/mean, reward/std    over scored traces (population deviation)
    reward/<part>/mean         over scored traces, before weighting
    reward/frac_zero_std       share of groups, of those with a scored trace, whose rewards are all
    equal:
                               they teach nothing
    reward/failed_frac         share of traces whose scoring failed
    accuracy/<label>           over scored traces of that label, if the reward has an ``accuracy``
    part
    """
    traces = [trace for group in groups for trace in group.traces]
    if not traces:
        return {}
    figures = {"reward/failed_frac": len(_failed(traces)) / len(traces)}
    scored = [(group.sample.label, score) for group in groups for score in _scores(group)]
    if not scored:
        return figures
    totals = [score.total for _, score in scored]
    figures["reward/mean"] = fmean(totals)
    figures["reward/std"] = pstdev(totals)
    rewards = [{score.total for score in _scores(group)} for group in groups if group.scored]
    figures["reward/frac_zero_std"] = fmean(len(distinct) == 1 for distinct in rewards)

    columns: dict[str, list[float]] = defaultdict(list)
    for label, score in scored:
        for part, value in score.parts.items():
            columns[f"reward/{part}/mean"].append(value)
        if "accuracy" in score.parts:
            columns[f"accuracy/{label}"].append(score.parts["accuracy"])
    return figures | {name: fmean(values) for name, values in sorted(columns.items())}


def refuse_too_many_failures(groups: Sequence[TraceGroup], max_failure_frac: float) -> None:
    """Raises TooManyFailures if more than that share of the traces could not be scored.

    The message names the culprits, most frequent first, each with one of its reasons.
    """
    traces = [trace for group in groups for trace in group.traces]
    failed = _failed(traces)
    if len(failed) <= max_failure_frac * len(traces):
        return
    reasons = {failure.culprit: failure.reason for failure in reversed(failed)}
    counts = Counter(failure.culprit for failure in failed).most_common()
    named = "; ".join(f"{culprit} ({count}x): {reasons[culprit]}" for culprit, count in counts)
    raise TooManyFailures(
        f"scoring failed for {len(failed)} of {len(traces)} traces, "
        f"more than reward.max_failure_frac={max_failure_frac:g}: {named}; mend the reward function"
    )


def _failed(traces: Iterable[Trace]) -> list[Failure]:
    outcomes = [trace.outcome for trace in traces]
    return [o for o in outcomes if isinstance(o, Failure) and o.kind is FailureKind.REWARD]


def _scores(group: TraceGroup) -> list[Score]:
    return [trace.outcome for trace in group.traces if isinstance(trace.outcome, Score)]
