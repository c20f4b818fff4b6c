"""Benchmark of rewards: how fast each scores traces, and what its separate process costs.

made-up groups, or a run's -> Scorer with one term, all groups at once -> seconds, latencies
                           -> a plain loop over the same calls in one bare process -> overhead
"""

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reward.config import RewardTerm
from reward.scorer import Scorer, question_of
from reward.spec import locate
from reward.tools.plain_loop import plain_loop_seconds
from reward.tools.sample_traces import made_up_traces
from reward.tools.subject import RewardUnderTest
from wire.archive.archive import read_groups
from wire.errors import ConfigError, DataError
from wire.labels import Label, LabelSet
from wire.types import Completion, Failure, FailureKind, Sample

GROUP_SIZE = 8
_PLAIN_FACTOR, _PLAIN_EXTRA_S = 4.0, 120.0  # imports of a bare process included


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchGroup:
    """One group of completions to be scored."""

    sample: Sample
    prompt: str
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times of scoring all groups by one term, in seconds.

    Example:
        Timing(part="brevity", call="trace", num_traces=4096, seconds=0.31,
               p50_s=2e-5, p99_s=6e-5, plain_s=0.08, num_failed=0, reason="")
    """

    part: str
    call: str
    """Unit of one call, and so of p50 and p99: ``trace`` or ``group``."""
    num_traces: int
    seconds: float
    p50_s: float
    p99_s: float
    plain_s: float | None
    """Time of a plain loop over the same calls; None for a built-in, and where it could not be
    timed."""
    num_failed: int
    reason: str
    """Reason of the first failure."""

    @property
    def traces_per_s(self) -> float:
        """Throughput."""
        return self.num_traces / self.seconds

    @property
    def overhead_s(self) -> float | None:
        """Time beyond the plain loop; below zero where several processes share the work."""
        return None if self.plain_s is None else self.seconds - self.plain_s


def made_up_groups(subject: RewardUnderTest, num_traces: int, num_tokens: int) -> list[BenchGroup]:
    """Made-up groups of eight traces, over the samples in turn."""
    asked = list(zip(subject.samples, subject.prompts, strict=True))
    groups = []
    for number, begin in enumerate(range(0, num_traces, GROUP_SIZE)):
        sample, prompt = asked[number % len(asked)]
        other = next(name for name in subject.labels.names if name != sample.label)
        count = min(GROUP_SIZE, num_traces - begin)
        traces = tuple(itertools.islice(made_up_traces(sample.label, other, num_tokens), count))
        groups.append(BenchGroup(sample=sample, prompt=prompt, completions=traces))
    return groups


def archived_groups(
    subject: RewardUnderTest, run: Path, label_names: Sequence[str], num_traces: int
) -> tuple[RewardUnderTest, list[BenchGroup]]:
    """The first groups of a run's archive, and the subject with that run's labels and columns.

    Raises DataError if there is no trace in the archive.
    """
    groups = list(_archived(run, num_traces, subject.prompts[0]))
    if not groups:
        raise DataError(f"the archive of {run} has no trace yet; leave --run out for made-up ones")
    labels = LabelSet(labels=tuple(Label(name=name) for name in label_names))
    columns = Counter(column for group in groups for column in group.sample.extra)
    return replace(subject, labels=labels, num_with=columns, num_samples=len(groups)), groups


def _archived(run: Path, num_traces: int, prompt: str) -> Iterator[BenchGroup]:
    left = num_traces
    for group in read_groups(run / "archive"):
        completions = tuple(trace.completion for trace in group.traces)[:left]
        if completions:
            left -= len(completions)
            yield BenchGroup(sample=group.sample, prompt=prompt, completions=completions)
        if not left:
            return


async def bench(subject: RewardUnderTest, term: RewardTerm, groups: Sequence[BenchGroup]) -> Timing:
    """Time one term on all groups. Raises UserError if it cannot be loaded."""
    async with subject.scorer(term) as scorer:
        signature = scorer.signatures.get(term.part)
        if why := subject.why_not_tried(term, signature):
            raise ConfigError(f"{term.function} {why}")
        begin = time.perf_counter()
        outcomes = await asyncio.gather(
            *[scorer.score(group.sample, group.completions, group.prompt) for group in groups]
        )
        seconds = time.perf_counter() - begin
        figures = scorer.take_figures()
        p50, p99 = (
            figures.get(f"reward/{term.part}/latency_p{share}_s", math.nan) for share in (50, 99)
        )
        if signature is None:
            p50, p99 = await _one_by_one(scorer, groups)
    failures = [
        outcome
        for of_one_group in outcomes
        for outcome in of_one_group
        if isinstance(outcome, Failure) and outcome.kind is not FailureKind.NOT_APPLICABLE
    ]
    plain = None
    if signature and not failures:
        limit_s = _PLAIN_FACTOR * term.concurrency * seconds + _PLAIN_EXTRA_S
        plain = await asyncio.to_thread(_plain_s, term, groups, signature.style, limit_s)
    return Timing(
        part=term.part,
        call="trace" if signature and not signature.is_batched else "group",
        num_traces=sum(len(group.completions) for group in groups),
        seconds=seconds,
        p50_s=p50,
        p99_s=p99,
        plain_s=plain,
        num_failed=len(failures),
        reason=failures[0].reason if failures else "",
    )


async def _one_by_one(scorer: Scorer, groups: Sequence[BenchGroup]) -> tuple[float, float]:
    """p50 and p99 of scoring a group, in seconds."""
    latencies = []
    for group in groups:
        begin = time.perf_counter()
        await scorer.score(group.sample, group.completions, group.prompt)
        latencies.append(time.perf_counter() - begin)
    latencies.sort()
    p50, p99 = (latencies[math.ceil(share * len(latencies)) - 1] for share in (0.5, 0.99))
    return p50, p99


def _plain_s(
    term: RewardTerm, groups: Sequence[BenchGroup], style: str, limit_s: float
) -> float | None:
    settings = {
        "spec": locate(term.function),
        "params": term.params,
        "style": style,
        "as_messages": term.completion_format == "messages",
    }
    lines = (
        question_of(group.sample, group.completions, group.prompt).to_json(
            range(len(group.completions)), with_ids=True
        )
        for group in groups
    )
    return plain_loop_seconds(settings, lines, limit_s)
