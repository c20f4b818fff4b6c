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

    reward/mean, reward/std    over scored traces (population deviation); reward/min, reward/max
    reward/<part>/mean, std    over scored traces, before weighting
    reward/frac_zero_std       share of groups, of those with a scored trace, whose rewards are all
    equal:
                               they teach nothing
    reward/failed_frac         share of traces whose scoring failed
    label/<label>/reward       over scored traces of that label
    label/<label>/accuracy     the same of the ``accuracy`` part, if the reward has one
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
    figures |= {"reward/min": min(totals), "reward/max": max(totals)}
    rewards = [{score.total for score in _scores(group)} for group in groups if group.scored]
    figures["reward/frac_zero_std"] = fmean(len(distinct) == 1 for distinct in rewards)

    parts: dict[str, list[float]] = defaultdict(list)
    labels: dict[str, list[float]] = defaultdict(list)
    for label, score in scored:
        labels[f"label/{label}/reward"].append(score.total)
        if "accuracy" in score.parts:
            labels[f"label/{label}/accuracy"].append(score.parts["accuracy"])
        for part, value in score.parts.items():
            parts[part].append(value)
    for part, values in sorted(parts.items()):
        figures |= {f"reward/{part}/mean": fmean(values), f"reward/{part}/std": pstdev(values)}
    return figures | {name: fmean(values) for name, values in sorted(labels.items())}


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
