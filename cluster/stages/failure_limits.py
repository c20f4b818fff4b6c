"""Failure limits of a run: too many groups that could not be written, or traces not scored, end it.

Budgets are two. What the data fails (a clip that cannot be decoded, a prompt that does not fit) is
counted over all of the run, by sample, in the quarantine: a step with one bad clip among four would
else end it. What the fleet fails (an engine, a disk) is counted by step.
"""

from collections.abc import Sequence
from dataclasses import replace

from reward.stats import refuse_too_many_failures
from wire.errors import TooManyFailures
from wire.token_arrays import Logprobs, TokenIds
from wire.types import Failure, Prompt, Trace, TraceGroup


class FailureCount:
    """Counts groups one after another, and keeps of those with failures what a message names."""

    def __init__(self, max_failure_frac: float) -> None:
        self._max_failure_frac = max_failure_frac
        self._num_groups = self._num_traces = 0
        self._failed: list[TraceGroup] = []

    def add(self, group: TraceGroup) -> None:
        """Count a group."""
        self._num_groups += 1
        self._num_traces += len(group.traces)
        traces = tuple(t for t in group.traces if isinstance(t.outcome, Failure))
        if traces or not group.traces:
            self._failed.append(replace(group, prompt=_NO_PROMPT, traces=_without_text(traces)))

    def refuse(self) -> None:
        """Raise TooManyFailures if more groups were dropped, or more scores failed, than
        allowed."""
        limit = self._max_failure_frac
        _refuse_groups(self._failed, limit, self._num_groups)
        refuse_too_many_failures(self._failed, limit, self._num_traces)


def refuse_failures(groups: Sequence[TraceGroup], max_failure_frac: float) -> None:
    """Raise TooManyFailures if more groups were dropped, or more scores failed, than allowed."""
    _refuse_groups(groups, max_failure_frac, len(groups))
    refuse_too_many_failures(groups, max_failure_frac)


def _refuse_groups(groups: Sequence[TraceGroup], max_failure_frac: float, num_groups: int) -> None:
    failed = [group for group in groups if group.is_dropped]
    if len(failed) > max_failure_frac * num_groups:
        first = failed[0].failures[0]
        raise TooManyFailures(
            f"{len(failed)} of {num_groups} groups of a step could not be written, "
            f"reward.max_failure_frac={max_failure_frac:g}; the first: {first.kind.value} of "
            f"{first.culprit}: {first.reason}"
        )


_NO_PROMPT = Prompt(token_ids=TokenIds(), clip_key="", fingerprint="")


def _without_text(traces: Sequence[Trace]) -> tuple[Trace, ...]:
    return tuple(
        replace(
            trace,
            completion=replace(
                trace.completion, token_ids=TokenIds((0,)), logprobs=Logprobs((0.0,)), text=""
            ),
        )
        for trace in traces
    )
