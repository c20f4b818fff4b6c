"""Reads curves from metrics.jsonl: one curve per stage and metric; points that a resumed attempt
wrote again replace the older ones.

    lines -> stage -> step -> the newest attempt's values -> at most MAX_POINTS points
                           -> what it superseded (steps lost in a crash, drawn faintly)

A step may have a line of its own for its validation; step 0 has only that.

Reads the file line by line, also while it is being written.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

from cluster.metrics.catalogue import EVALUATION, pool
from cluster.metrics.metrics_file import current_rows, figures_of, is_validation, read_rows
from cluster.run_files import read_result, validation_outcome

MAX_POINTS = 400
"""Per curve; more steps are pooled in equal spans (``pool`` in cluster/metrics/catalogue.py)."""

Values = Mapping[str, float | None]
_Lines = dict[tuple[int, int], Values]
"""Attempt and step -> figures."""


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
    """Steps trained, before thinning."""
    kept: Curves
    superseded: Curves
    """Steps that a later attempt did again, or is yet to do again."""
    resumed: tuple[Resumption, ...]
    last_attempt: int
    first_time: float
    """Time of the stage's first line, seconds since 1970; 0: unknown."""
    last_time: float
    outcome: str = ""
    """What came of its validations, in words."""


def read_curves(
    path: Path, beginnings: Mapping[str, int] = MappingProxyType({})
) -> list[StageCurves]:
    """The curves in a metrics.jsonl, stages in the order of their first line; [] without a file.
    ``beginnings``: stage -> attempt with which it began anew; what was before is left out.

    Evaluations are left out: the report has their figures in its table.
    """
    stages: dict[str, tuple[_Lines, _Lines]] = {}
    times: dict[str, list[float]] = {}
    for row in current_rows(read_rows(path), beginnings):
        name = str(row["stage"])
        if name == EVALUATION:
            continue
        place = (int(row["attempt"]), int(row["step"]))
        of_steps, of_validations = stages.setdefault(name, ({}, {}))
        (of_validations if is_validation(row) else of_steps)[place] = figures_of(row)
        times.setdefault(name, []).append(float(row.get("time", 0.0)))
    return [
        replace(_stage(name, *lines, times[name]), outcome=_outcome(path.parent, name))
        for name, lines in stages.items()
    ]


def _outcome(run: Path, stage: str) -> str:
    """What came of a stage's validations; empty where its done.json cannot be read."""
    try:
        return validation_outcome(read_result(run, stage) or {})
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _stage(name: str, rows: _Lines, validations: _Lines, times: Sequence[float]) -> StageCurves:
    newest, validated = _newest(rows), _newest(validations)
    steps = sorted(newest)
    attempts = [newest[step] for step in steps]
    lost = sorted((step, attempt) for attempt, step in rows if newest.get(step) != attempt)
    kept = {step: dict(rows[newest[step], step]) for step in steps}
    for step in validated:
        kept.setdefault(step, {}).update(validations[validated[step], step])
    return StageCurves(
        name=name,
        num_steps=len(steps),
        kept=_curves(sorted(kept), [kept[step] for step in sorted(kept)]),
        superseded=_curves([step for step, _ in lost], [rows[a, step] for step, a in lost]),
        resumed=tuple(
            Resumption(step=step, attempt=attempt)
            for step, attempt, before in zip(steps[1:], attempts[1:], attempts, strict=False)
            if attempt != before
        ),
        last_attempt=max(attempt for attempt, _ in (*rows, *validations)),
        first_time=min(times),
        last_time=max(times),
    )


def _newest(lines: _Lines) -> dict[int, int]:
    """Step -> the newest attempt with a line of it. From where an attempt takes up, what earlier
    ones did is lost, further steps too."""
    newest: dict[int, int] = {}
    for attempt, own in groupby(sorted(lines), key=lambda place: place[0]):
        added = [step for _, step in own]
        newest = {step: before for step, before in newest.items() if step < added[0]}
        newest |= dict.fromkeys(added, attempt)
    return newest


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
