"""Compares runs for ``deepintuit compare``: figures of their arms, and paired tests.

    run directories -> arms (predictions/NAME.parquet) -> figures of each
                                                       -> pairs -> Comparison of each

An *arm* is a stage, or whatever else left predictions: the head, a control. Reads only what appears
whole, and locks nothing, so runs may still be going on.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calibrate.compare import Comparison, compare
from calibrate.metrics import Evaluation, evaluate
from calibrate.predictions import Prediction, read_predictions
from cluster.metrics.inference_cost import InferenceCost
from cluster.run_files import (
    prediction_files,
    read_classifiers,
    read_label_names,
    read_result,
    read_run_chain,
)
from wire.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Predictions of one stage or control arm of one run.

    Example:
        Arm(run="demo", name="grpo", predictions=(...))
    """

    run: str
    """The directory's name, or its path where two have the same name."""
    name: str
    """A stage, or the name of the file."""
    predictions: tuple[Prediction, ...]

    def __str__(self) -> str:
        return f"{self.run} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFigures:
    """The figures of one arm."""

    run: str
    name: str
    evaluation: Evaluation
    inference: InferenceCost | None = None
    """Cost of an answer; None where the run did not measure it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """Two arms on the same clips: the second against the first."""

    run_before: str
    name_before: str
    run_after: str
    name_after: str
    comparison: Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedText:
    """What is to be known of a classifier that a run published."""

    run: str
    stage: str
    method: str
    """What it reads."""
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Figures and tests that ``deepintuit compare`` prints."""

    only_shared: bool
    """Figures and tests are over the clips that every arm has."""
    arms: tuple[ArmFigures, ...]
    tests: tuple[PairedTest, ...]
    classifiers: tuple[PublishedText, ...]


def compare_runs(
    paths: Sequence[Path],
    *,
    stages: Sequence[str] = (),
    against: str | None = None,
    only_shared: bool = False,
) -> RunComparison:
    """Figures of all arms of the runs (or only of those named in ``stages``), and paired tests.

    Tested are, within each run, each stage with the one before it, or each arm with ``against``;
    and between runs, each arm with the arm of that name in the first run. Raises UserError.
    """
    names = _run_names(paths)
    label_names = _shared_labels(paths)
    runs = {names[path]: _read_arms(path, names[path], stages, against) for path in paths}
    if only_shared:
        runs = _restrict(runs)
    stages_of = {names[path]: read_run_chain(path).names for path in paths}
    pairs = [*_within(runs, stages_of, against), *_between(runs)]
    return RunComparison(
        only_shared=only_shared,
        arms=tuple(
            _figures(arm, label_names, _cost(path, arm))
            for path in paths
            for arm in runs[names[path]].values()
        ),
        tests=tuple(_test(before, after) for before, after in pairs),
        classifiers=tuple(
            PublishedText(run=names[path], stage=stage, method=one.method, lines=tuple(one.lines()))
            for path in paths
            for stage, one in read_classifiers(path).items()
        ),
    )


Runs = Mapping[str, Mapping[str, Arm]]
"""Run -> name -> arm, in the order of the table."""


def _run_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name of each run: its directory's name, or its path where two share a name."""
    resolved = [path.resolve() for path in paths]
    for path, place in zip(paths, resolved, strict=True):
        if resolved.count(place) > 1:
            raise ConfigError(f"{path} is given twice; give each run once")
    short = [place.name for place in resolved]
    distinct = len(set(short)) == len(short)
    return {path: name if distinct else str(path) for path, name in zip(paths, short, strict=True)}


def _shared_labels(paths: Sequence[Path]) -> tuple[str, ...]:
    first, *others = paths
    expected = read_label_names(first)
    for path in others:
        if (names := read_label_names(path)) != expected:
            raise DataError(
                f"{first} has the labels {', '.join(expected)}, and {path} has {', '.join(names)}; "
                "compare runs of one label set"
            )
    return expected


def _read_arms(path: Path, run: str, stages: Sequence[str], against: str | None) -> dict[str, Arm]:
    """Arms of a run in their order: those named in ``stages``, or all."""
    files = prediction_files(path)
    if not files:
        raise DataError(f"{path} has no predictions yet; wait until its first stage has finished")
    needed = [*stages, *([against] if against else [])]
    for name in needed:
        if name not in files:
            raise _no_such_arm(path, name, files)
    return {
        name: Arm(run=run, name=name, predictions=tuple(read_predictions(file)))
        for name, file in files.items()
        if not stages or name in needed
    }


def _no_such_arm(path: Path, name: str, known: Mapping[str, object]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    if read_result(path, name) is not None:
        advice = "that stage has finished, and measures nothing"
    elif name in read_run_chain(path):
        advice = "it has not finished that stage"
    else:
        advice = f"did you mean {near[0]!r}?" if near else "nothing of that name was measured"
    return ConfigError(
        f"{path} has no predictions of {name!r}, only of {', '.join(known)}: {advice}"
    )


def _restrict(runs: Runs) -> dict[str, dict[str, Arm]]:
    """Arms with predictions only for the clips that all arms have."""
    arms = [arm for by_name in runs.values() for arm in by_name.values()]
    shared = set.intersection(*[_clips(arm) for arm in arms])
    if not shared:
        counts = ", ".join(f"{arm}: {len(_clips(arm))}" for arm in arms)
        raise DataError(
            f"no clip is in all of these predictions ({counts}); leave out the odd one with --stage"
        )
    return {
        run: {
            name: replace(
                arm, predictions=tuple(p for p in arm.predictions if p.sample_id in shared)
            )
            for name, arm in by_name.items()
        }
        for run, by_name in runs.items()
    }


def _clips(arm: Arm) -> set[str]:
    return {p.sample_id for p in arm.predictions}


def _within(
    runs: Runs, stages_of: Mapping[str, Sequence[str]], against: str | None
) -> Iterator[tuple[Arm, Arm]]:
    """(before, after) within each run."""
    for run, arms in runs.items():
        if against:
            yield from ((arms[against], arm) for name, arm in arms.items() if name != against)
        else:
            yield from _neighbours([arms[stage] for stage in stages_of[run] if stage in arms])


def _neighbours(stages: Sequence[Arm]) -> Iterator[tuple[Arm, Arm]]:
    """Each stage with the last one before it that was measured on the same clips; a chain may
    measure a stage on another split."""
    for place, after in enumerate(stages):
        before = [arm for arm in stages[:place] if _clips(arm) == _clips(after)]
        if before:
            yield before[-1], after


def _between(runs: Runs) -> Iterator[tuple[Arm, Arm]]:
    """(arm of the first run, arm of that name in another run)."""
    reference, *others = runs.values()
    for arms in others:
        yield from ((reference[name], arm) for name, arm in arms.items() if name in reference)


def _cost(path: Path, arm: Arm) -> InferenceCost | None:
    return InferenceCost.of_result(read_result(path, arm.name) or {})


def _figures(arm: Arm, label_names: Sequence[str], cost: InferenceCost | None) -> ArmFigures:
    try:
        evaluation = evaluate(arm.predictions, label_names)
    except DataError as error:
        raise DataError(f"{arm}: {error}") from error
    return ArmFigures(run=arm.run, name=arm.name, evaluation=evaluation, inference=cost)


def _test(before: Arm, after: Arm) -> PairedTest:
    first, second = _clips(before), _clips(after)
    if first != second:
        raise DataError(
            f"{before} ({len(first)} clips) and {after} ({len(second)} clips) were measured on "
            f"different clips and share {len(first & second)}; --shared compares on the clips "
            "that all arms share, --stage leaves arms out"
        )
    try:
        comparison = compare(before.predictions, after.predictions)
    except DataError as error:
        raise DataError(f"{before} and {after}: {error}") from error
    return PairedTest(
        run_before=before.run,
        name_before=before.name,
        run_after=after.run,
        name_after=after.name,
        comparison=comparison,
    )
