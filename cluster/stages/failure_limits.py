"""Failure limits of a run: too many groups that could not be written, or traces not scored, end it.

Clips that cannot be decoded are counted over all of the run, by the quarantine: a step with one bad
clip among four would else end it.
"""

from collections.abc import Sequence

from reward.stats import refuse_too_many_failures
from wire.errors import TooManyFailures
from wire.types import FailureKind, TraceGroup


def refuse_failures(groups: Sequence[TraceGroup], max_failure_frac: float) -> None:
    """Raise TooManyFailures if more groups failed (prompt, generation), or more scores, than
    allowed."""
    failed = [
        group
        for group in groups
        if not group.traces and group.failures[0].kind is not FailureKind.DECODE
    ]
    if len(failed) > max_failure_frac * len(groups):
        first = failed[0].failures[0]
        raise TooManyFailures(
            f"{len(failed)} of {len(groups)} groups of a step could not be written, "
            f"reward.max_failure_frac={max_failure_frac:g}; the first: {first.kind.value} of "
            f"{first.culprit}: {first.reason}"
        )
    refuse_too_many_failures(groups, max_failure_frac)
