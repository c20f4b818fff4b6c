"""Reads the run of one seed: metrics and cost of each stage and control arm.

    DIR/seed-K -> read_seed -> SeedRun -> arm_row (over seeds) -> ArmRow

Only ``read_seed`` touches files. What has not finished is None, never a zero.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrate.metrics import evaluate, wilson_interval
from calibrate.predictions import Prediction, read_predictions
from cluster.config.controls import read_titles, titles
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.kinds.sft import SftStage
from cluster.config.recipe import RunConfig
from cluster.config.stages import num_updates
from cluster.run_files import RECIPE_FILE, read_result, read_run_recipe, result_figures
from rollout.manifest import read_manifest, select
from wire.errors import DataError
from wire.types import Sample, Split

COSTS = {
    "num_rollouts": "rollouts",
    "num_updates": "updates",
    "num_generated_tokens": "generated tokens",
}
"""Titles of the costs of an arm."""

ValuePerSeed = tuple[float | None, ...]
"""One value for each seed of the study, in its order; None: not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRun:
    """Contents of one seed's run directory."""

    seed: int
    config: RunConfig
    results: Mapping[str, Mapping[str, Any]]
    """done.json of each finished stage and arm."""
    predictions: Mapping[str, Sequence[Prediction]]
    """Predictions of each finished stage or arm that makes some."""
    samples: Sequence[Sample]
    groups: Mapping[str, str]
    """Sample id -> value of the column grouped by; empty without one."""
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmMetrics:
    """Metrics of one arm under one seed; shares in [0, 1]."""

    split: str
    num_samples: int
    accuracy: float
    accuracy_seen: float | None
    """Accuracy on clips of groups that train has; None without groups, or without such clips."""
    accuracy_never: float | None
    """Accuracy on clips of groups that train does not have."""
    accuracy_by_group: dict[str, float]
    macro_f1: float
    ece: float
    brier: float | None
    probabilities_frac: float
    """Share of the clips that have probabilities, and so a Brier score."""
    selective_accuracy: float
    unparsed_frac: float
    majority_baseline: float | None
    best_constant: float
    floor: float
    """Upper end of the 95% Wilson interval of the best constant answer's accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRow:
    """Metrics and cost of one arm over all seeds; None where the arm has not finished."""

    name: str
    text: str
    figures: tuple[ArmMetrics | None, ...]
    seconds: ValuePerSeed
    costs: tuple[dict[str, int] | None, ...]
    """num_rollouts, num_updates, num_generated_tokens, as far as they are known."""

    def values(self, field: str) -> ValuePerSeed:
        """One metric by name, for each seed."""
        return tuple(getattr(metrics, field) if metrics else None for metrics in self.figures)

    def cost(self, key: str) -> ValuePerSeed:
        """One of ``COSTS``, for each seed."""
        return tuple(None if spent is None else spent.get(key) for spent in self.costs)


def mean(values: Sequence[float | None]) -> float | None:
    """Mean over the seeds that have a value; None if none has."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def read_seed(path: Path, seed: int, group_by: str | None) -> SeedRun | None:
    """Read the run of one seed; None if it has not started.

    Raises DataError if the files do not fit each other.
    """
    if not (path / RECIPE_FILE).exists():
        return None
    config = read_run_recipe(path)
    every = {name: read_result(path, name) for name in titles(config)}
    results = {name: result for name, result in every.items() if result is not None}
    for stage in config.chain:
        if isinstance(stage, CalibrateStage):
            calibrated = results.get(stage.name, {})
            if "head" in calibrated:
                results[stage.head_name] = {"evaluation": calibrated["head"]}
            if "classifier" in calibrated:
                evaluation = calibrated["classifier"]["evaluation"]
                results[stage.classifier_name] = {"evaluation": evaluation}
    files = {name: path / "predictions" / f"{name}.parquet" for name in results}
    predictions = {name: read_predictions(f) for name, f in files.items() if f.exists()}
    samples = read_manifest(config.data.manifest, config.label_set, config.data.media_root)
    groups = {sample.id: _group(sample, group_by) for sample in samples} if group_by else {}
    summary = path / "summary.json"
    return SeedRun(
        seed=seed,
        config=config,
        results=results,
        predictions=predictions,
        samples=samples,
        groups=groups,
        versions=json.loads(summary.read_text())["versions"] if summary.exists() else {},
    )


def titles_of(seeds: Sequence[SeedRun | None]) -> dict[str, str]:
    """Name -> title of all that the runs may have measured, in the order of the tables."""
    configs = [run.config for run in seeds if run is not None]
    return titles(configs[0]) if configs else read_titles({})


def arm_row(name: str, title: str, seeds: Sequence[SeedRun | None]) -> ArmRow:
    """Compute an arm's row over the seeds. Raises DataError if the files of a seed do not agree."""
    return ArmRow(
        name=name,
        text=title,
        figures=tuple(_figures(run, name) if run else None for run in seeds),
        seconds=tuple(result_of(run, name).get("seconds") for run in seeds),
        costs=tuple(_cost(run, name) if run else None for run in seeds),
    )


def _figures(run: SeedRun, arm: str) -> ArmMetrics | None:
    predictions = run.predictions.get(arm)
    if predictions is None:
        return None
    train = select(run.samples, Split.TRAIN)
    metrics = evaluate(predictions, run.config.label_set.names, [sample.label for sample in train])
    _refuse_other_predictions(run, arm, metrics.accuracy)
    by_group = _right_by_group(run, arm)
    trained = {run.groups[sample.id] for sample in train if run.groups}
    return ArmMetrics(
        split=run.results[arm].get("split", run.config.evaluate.split.value),
        num_samples=metrics.num_samples,
        accuracy=metrics.accuracy,
        accuracy_seen=_share(by_group, [group for group in by_group if group in trained]),
        accuracy_never=_share(by_group, [group for group in by_group if group not in trained]),
        accuracy_by_group={group: statistics.fmean(of) for group, of in sorted(by_group.items())},
        macro_f1=metrics.macro_f1,
        ece=metrics.ece,
        brier=metrics.brier,
        probabilities_frac=metrics.probabilities_frac,
        selective_accuracy=metrics.selective_accuracy,
        unparsed_frac=metrics.unparsed_frac,
        majority_baseline=metrics.majority_baseline,
        best_constant=metrics.best_constant,
        floor=wilson_interval(
            round(metrics.best_constant * metrics.num_samples), metrics.num_samples
        )[1],
    )


def _refuse_other_predictions(run: SeedRun, arm: str, accuracy: float) -> None:
    """Refuse predictions of another attempt than done.json (predictions appear first)."""
    noted = result_figures(run.results[arm])
    if noted and abs(noted["accuracy"] - accuracy) > 1e-9:
        raise DataError(
            f"seed {run.seed}: predictions of {arm} have accuracy {accuracy:.4f}, its done.json "
            f"says {noted['accuracy']:.4f}; run that seed anew in an empty directory"
        )


def _right_by_group(run: SeedRun, arm: str) -> dict[str, list[bool]]:
    """Group -> whether each of its clips is right; empty without groups."""
    by_group: dict[str, list[bool]] = {}
    known = {sample.id for sample in run.samples}
    for p in run.predictions[arm]:
        if p.sample_id not in known:
            raise DataError(
                f"seed {run.seed}: {arm} predicts clip {p.sample_id!r}, which is not in "
                f"{run.config.data.manifest}; restore the manifest of the run"
            )
        if run.groups:
            by_group.setdefault(run.groups[p.sample_id], []).append(p.predicted == p.label)
    return by_group


def _share(right: Mapping[str, Sequence[bool]], groups: Sequence[str]) -> float | None:
    answers = [one for group in groups for one in right[group]]
    return statistics.fmean(answers) if answers else None


def _cost(run: SeedRun, arm: str) -> dict[str, int] | None:
    """Cost of an arm, from its done.json; for a stage that records none, from the recipe."""
    result = run.results.get(arm)
    if result is None:
        return None
    if "cost" in result:
        return dict(result["cost"])
    stage = run.config.chain.get(arm, None)
    if stage is None:
        return None
    work = stage.work(None, run.config.rollout)
    if isinstance(stage, SftStage) and "num_traces" in result:
        updates = num_updates(result["num_traces"], stage.epochs, stage.batch_size)
        return {"num_rollouts": 0, "num_updates": updates}
    if isinstance(stage, CalibrateStage) and "traces" in result:
        traces = result["traces"]["num_traces"]
        updates = num_updates(traces, stage.epochs, stage.batch_size)
        return {"num_rollouts": traces, "num_updates": updates}
    if work.rollouts and work.updates:
        return {"num_rollouts": work.rollouts, "num_updates": work.updates}
    return None


def result_of(run: SeedRun | None, arm: str) -> Mapping[str, Any]:
    """done.json of an arm; empty where it has not finished."""
    return run.results.get(arm, {}) if run else {}


def _group(sample: Sample, group_by: str) -> str:
    if group_by not in sample.extra:
        raise DataError(f"clip {sample.id!r} has no column {group_by!r} to group by")
    value = sample.extra[group_by]
    return value if isinstance(value, str) else json.dumps(value)
