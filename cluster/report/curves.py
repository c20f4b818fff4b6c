"""Reads curves from metrics.jsonl: one curve per stage and metric; points that a resumed attempt
wrote again replace the older ones.

    lines -> stage -> step -> the newest attempt's values -> at most MAX_POINTS points
                           -> what it superseded (steps lost in a crash, drawn faintly)

Reads the file line by line, also while it is being written.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

from cluster.metrics.catalogue import EVALUATION, pool
from cluster.metrics.metrics_file import current_rows, figures_of, read_rows

MAX_POINTS = 400
"""Per curve; more steps are pooled in equal spans (``pool`` in cluster/metrics/catalogue.py)."""

Values = Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """Point where a later attempt resumed a stage."""

    step: int
    """First step of the attempt."""
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Several metrics over the same steps; None where a step has no value."""

    steps: tuple[int, ...]
    values: dict[str, tuple[float | None, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCurves:
    """Curves of all metrics of a stage or control arm."""

    name: str
    num_steps: int
    """Steps in the file, before thinning."""
    kept: Curves
    superseded: Curves
    """Steps that a later attempt did again, or is yet to do again."""
    resumed: tuple[Resumption, ...]
    last_attempt: int
    first_time: float
    """Time of the stage's first line, seconds since 1970; 0: unknown."""
    last_time: float


def read_curves(
    path: Path, beginnings: Mapping[str, int] = MappingProxyType({})
) -> list[StageCurves]:
    """The curves in a metrics.jsonl, stages in the order of their first line; [] without a file.
    ``beginnings``: stage -> attempt with which it began anew; what was before is left out.

    Evaluations are left out: the report has their figures in its table.
    """
    stages: dict[str, dict[tuple[int, int], Values]] = {}
    times: dict[str, list[float]] = {}
    for row in current_rows(read_rows(path), beginnings):
        name = str(row["stage"])
        if name == EVALUATION:
            continue
        place = (int(row["attempt"]), int(row["step"]))
        stages.setdefault(name, {})[place] = figures_of(row)
        times.setdefault(name, []).append(float(row.get("time", 0.0)))
    return [_stage(name, rows, times[name]) for name, rows in stages.items()]


def _stage(
    name: str, rows: Mapping[tuple[int, int], Values], times: Sequence[float]
) -> StageCurves:
    newest: dict[int, int] = {}
    for attempt, own in groupby(sorted(rows), key=lambda place: place[0]):
        added = [step for _, step in own]
        # from where an attempt takes up, what earlier ones did is lost, further steps too
        newest = {step: before for step, before in newest.items() if step < added[0]}
        newest |= dict.fromkeys(added, attempt)
    steps = sorted(newest)
    attempts = [newest[step] for step in steps]
    lost = sorted((step, attempt) for attempt, step in rows if newest.get(step) != attempt)
    return StageCurves(
        name=name,
        num_steps=len(steps),
        kept=_curves(steps, [rows[newest[step], step] for step in steps]),
        superseded=_curves([step for step, _ in lost], [rows[a, step] for step, a in lost]),
        resumed=tuple(
            Resumption(step=step, attempt=attempt)
            for step, attempt, before in zip(steps[1:], attempts[1:], attempts, strict=False)
            if attempt != before
        ),
        last_attempt=max(attempt for attempt, _ in rows),
        first_time=min(times),
        last_time=max(times),
    )


def _curves(steps: Sequence[int], rows: Sequence[Values]) -> Curves:
    names = list(dict.fromkeys(name for row in rows for name in row))
    spans = list(_spans(len(steps)))
    return Curves(
        steps=tuple(steps[span.stop - 1] for span in spans),
        values={
            name: tuple(_pooled(name, (row.get(name) for row in rows[span])) for span in spans)
            for name in names
        },
    )


def _spans(count: int) -> Iterator[slice]:
    """Equal spans of consecutive steps, at most MAX_POINTS."""
    width = max(1, math.ceil(count / MAX_POINTS))
    yield from (slice(start, min(start + width, count)) for start in range(0, count, width))


def _pooled(name: str, values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return pool(name, known) if known else None
