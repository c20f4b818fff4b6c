"""Reward figures of a step, and the limit on failed scores. Pure functions.

TraceGroups -> {"reward/mean": ..., ...};  the loop logs them
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, pstdev

from wire.errors import TooManyFailures
from wire.types import Failure, FailureKind, Score, Trace, TraceGroup


def summarise(groups: Sequence[TraceGroup]) -> dict[str, float]:
    """Reward figures of one step. A figure without data (no trace scored) is left out, not zero.

    reward/mean, reward/std    over scored traces (population deviation); reward/min, reward/max
    reward/<part>/mean, std    over scored traces to which the part applies, before weighting; also
                               for the further numbers of a function, as reward/<part>/<name>/mean
    reward/frac_zero_std       share of groups, of those with a scored trace, whose rewards are all
                               equal: they teach nothing
    reward/failed_frac         share of traces whose scoring failed
    reward/<part>/failed_frac  the same of one part, if it failed
    reward/not_applicable_frac share of traces to which no part applies, if there are any
    label/<label>/reward       over scored traces of that label
    label/<label>/accuracy     the same of the ``accuracy`` part, if the reward has one
    label/<label>/reward/<part> the same of any other part
    """
    traces = [trace for group in groups for trace in group.traces]
    if not traces:
        return {}
    figures = {"reward/failed_frac": len(_failures(traces, FailureKind.REWARD)) / len(traces)}
    for culprit, failures in Counter(f.culprit for f in _failures(traces)).items():
        figures[f"reward/{culprit}/failed_frac"] = failures / len(traces)
    if without := _failures(traces, FailureKind.NOT_APPLICABLE):
        figures["reward/not_applicable_frac"] = len(without) / len(traces)
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
        for part, value in score.parts.items():
            parts[part].append(value)
            if "/" not in part:  # a term, not a further number of its function
                name = part if part == "accuracy" else f"reward/{part}"
                labels[f"label/{label}/{name}"].append(value)
    for part, values in sorted(parts.items()):
        figures |= {f"reward/{part}/mean": fmean(values), f"reward/{part}/std": pstdev(values)}
    return figures | {name: fmean(values) for name, values in sorted(labels.items())}


def refuse_too_many_failures(
    groups: Sequence[TraceGroup], max_failure_frac: float, num_traces: int | None = None
) -> None:
    """Raise TooManyFailures if more than ``max_failure_frac`` of the traces could not be scored;
    ``num_traces``: of all groups, where ``groups`` are those with failures alone.

    The message names the culprits, most frequent first, each with one of its reasons; then the
    first failure, with its sample and where in the function it happened.
    """
    traces = [trace for group in groups for trace in group.traces]
    failed = _failures(traces, FailureKind.REWARD)
    num_traces = len(traces) if num_traces is None else num_traces
    if len(failed) <= max_failure_frac * num_traces:
        return
    reasons = {failure.culprit: failure.reason for failure in reversed(failed)}
    counts = Counter(failure.culprit for failure in failed).most_common()
    named = "; ".join(f"{culprit} ({count}x): {reasons[culprit]}" for culprit, count in counts)
    raise TooManyFailures(
        f"scoring failed for {len(failed)} of {num_traces} traces, "
        f"more than reward.max_failure_frac={max_failure_frac:g}: {named}; mend the reward function"
        f"{_first(groups)}"
    )


def _first(groups: Sequence[TraceGroup]) -> str:
    """The first failure with a traceback, or just the first."""
    failed = [(group.sample.id, f) for group in groups for f in _failures(group.traces)]
    sample_id, failure = next((pair for pair in failed if pair[1].traceback), failed[0])
    reason = f"\n{failure.traceback}" if failure.traceback else f" {failure.reason}"
    return f"\nThe first, {failure.culprit} on sample {sample_id}:{reason}"


def _failures(traces: Iterable[Trace], kind: FailureKind = FailureKind.REWARD) -> list[Failure]:
    outcomes = [trace.outcome for trace in traces]
    return [o for o in outcomes if isinstance(o, Failure) and o.kind is kind]


def _scores(group: TraceGroup) -> list[Score]:
    return [trace.outcome for trace in group.traces if isinstance(trace.outcome, Score)]
