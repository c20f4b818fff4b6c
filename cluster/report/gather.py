"""Gathers the report's data from a run directory, as plain data. Reads only, and locks nothing.

    run.json, stages/*/done.json, summary.json -> RunFacts
    stages/*/done.json["classifier"]           -> published classifiers
    predictions/*.parquet                      -> arms, paired tests, clips (cluster/report/arms.py)
    metrics.jsonl                              -> curves
                                               -> guards (cluster/report/hacking.py)
    events.jsonl, fleet.json, timeline/        -> fleet (cluster/report/fleet.py)
    archive                                    -> traces of clips, groups of the training
    quarantine.jsonl                           -> clips left out

The run may still be going on, may have failed, may have finished one stage only. A part that cannot
be read is left out, and a note on the page says why.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from calibrate.predictions import Prediction
from calibrate.published import PublishedClassifier
from cluster.config.chain import Chain
from cluster.config.controls import main_stages
from cluster.config.kinds.grpo import GrpoStage
from cluster.metrics.metrics_file import current_rows, read_rows, warnings_of
from cluster.report.archived import ArchiveIndex, index_archive
from cluster.report.arms import (
    ArmFigures,
    Declared,
    PairedFigures,
    Predictions,
    ShownStage,
    arm_figures,
    majority,
    paired_figures,
)
from cluster.report.clips import ClipRecord, choose_clips, clip_records, read_light
from cluster.report.curves import StageCurves, read_curves
from cluster.report.fleet import FleetRecord, fleet_record
from cluster.report.groups import GroupRecord, group_records
from cluster.report.hacking import StageGuards, guard_records
from cluster.report.left_out import Quarantined, failure_of, read_quarantined
from cluster.report.rationales import RationaleRecord, rationale_records
from cluster.report.sizes import manifest_sizes
from cluster.run_files import (
    describe_source,
    prediction_files,
    prompt_versions,
    read_classifiers,
    read_history,
    read_label_names,
    read_recipe_file,
    read_result,
    read_run_chain,
    read_started_from,
)
from learner.config import GrpoLossConfig
from reward.config import RewardConfig
from reward.hacking import TraceReader
from rollout.prompt import Prompts
from rollout.prompts_config import PromptsConfig
from video.config import VideoConfig
from wire.config import Config, validate
from wire.errors import DeepIntuitError
from wire.labels import LabelSet

T = TypeVar("T")
C = TypeVar("C", bound=Config)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Facts about the run: recipe, data, times, versions."""

    name: str
    model: str
    seed: int | None
    labels: tuple[tuple[str, str], ...]
    """(name, definition), sorted by name: the order of every matrix and probability."""
    split: str
    """Split that the stages were evaluated on."""
    sizes: dict[str, int]
    """Clips in the manifest by split; empty where the manifest is not there."""
    num_with_trace: int
    """Train clips that have a teacher's trace."""
    stages_done: tuple[str, ...]
    stages_left: tuple[str, ...]
    failure: str
    """The error that it failed with; empty if it did not."""
    seconds_stages: float
    """Seconds of the finished stages, engine starts not included."""
    seconds_controls: float
    started: str | None
    """First line of metrics.jsonl, UTC."""
    last_sign: str | None
    """Last line of metrics.jsonl, UTC."""
    num_attempts: int
    started_from: str
    """Stage of another run that its model came from; empty for none."""
    changes: tuple[str, ...]
    """Settings that resumes changed."""
    prompts: str
    peak_memory_gb: float | None
    versions: dict[str, str]
    calibration_traces: dict[str, Any] | None
    agreement: float | None
    """Share of verdicts that repeat the answer of the trace they were shown."""
    generated: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Data of the report; pictures are added later."""

    run: RunFacts
    stages: tuple[ShownStage, ...]
    """Declared stages and heads."""
    arms: tuple[ArmFigures, ...]
    tests: tuple[PairedFigures, ...]
    majority: float | None
    curves: tuple[StageCurves, ...]
    guards: tuple[StageGuards, ...]
    fleet: FleetRecord | None
    rationales: tuple[RationaleRecord, ...]
    """Of stages that wrote rationales or captions."""
    classifiers: dict[str, PublishedClassifier]
    """Stage -> what it published."""
    clips: tuple[ClipRecord, ...]
    num_clips: int
    """Evaluated clips, of which ``clips`` are the most telling."""
    groups: tuple[GroupRecord, ...]
    num_groups: int
    """Training groups in the archive; of traces all."""
    num_traces: int
    quarantined: tuple[Quarantined, ...]
    recipe: dict[str, Any]
    video: VideoConfig
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    """Of trainings that learned nothing, or did so at times."""


@dataclass(slots=True)
class _Notes:
    """Notes on files that could not be read."""

    lines: list[str] = field(default_factory=list)

    def attempt(self, what: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except (DeepIntuitError, OSError, ValueError, KeyError, TypeError) as error:
            self.lines.append(f"{what}: {error or type(error).__name__}")
            return otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunFiles:
    """Files of the run that several parts of the report are made from."""

    recipe: dict[str, Any]
    labels: LabelSet
    predictions: Predictions
    arms: list[ArmFigures]
    index: ArchiveIndex
    curves: list[StageCurves]
    reader: TraceReader
    prompts: Prompts
    loss: GrpoLossConfig
    warnings: list[str]
    declared: Declared
    chain: Chain


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traces:
    """Parts of the report that show traces of the archive."""

    guards: tuple[StageGuards, ...]
    clips: tuple[ClipRecord, ...]
    groups: tuple[GroupRecord, ...]


def gather(path: Path, max_clips: int) -> Report:
    """Read the run in ``path``. Raises UserError if there is no run, or its labels are unreadable.

    At most ``max_clips`` evaluated clips are kept.
    """
    notes = _Notes()
    files = _read_files(path, notes)
    facts = _run_facts(path, files.recipe, files.curves, notes)
    traces = _read_traces(path, files, max_clips, notes)
    stages = files.chain.names
    evaluated = [files.predictions[name] for name in stages if name in files.predictions]
    return Report(
        run=facts,
        stages=files.declared.shown,
        arms=tuple(files.arms),
        tests=tuple(paired_figures(files.predictions, files.declared)),
        majority=majority(path, files.arms),
        curves=tuple(files.curves),
        guards=traces.guards,
        fleet=notes.attempt("events.jsonl", lambda: fleet_record(path, files.curves), None),
        rationales=notes.attempt(
            "rationales.jsonl", lambda: rationale_records(path, files.chain), ()
        ),
        classifiers=notes.attempt(
            "classifier", lambda: read_classifiers(path), dict[str, PublishedClassifier]()
        ),
        clips=traces.clips,
        num_clips=max(map(len, evaluated), default=0),
        groups=traces.groups,
        num_groups=files.index.num_training,
        num_traces=files.index.num_traces,
        quarantined=tuple(
            notes.attempt(
                "quarantine.jsonl", lambda: list(read_quarantined(path)), list[Quarantined]()
            )
        ),
        recipe=files.recipe,
        video=_config(VideoConfig, _section(files.recipe, "video"), notes),
        notes=tuple(notes.lines),
        warnings=tuple(files.warnings),
    )


def _read_files(path: Path, notes: _Notes) -> _RunFiles:
    """Read the recipe, the measured stages and arms, the archive's index and the metrics."""
    names = read_label_names(path)
    recipe = read_recipe_file(path)
    labels = validate(LabelSet, {"labels": recipe["labels"]}, str(path / "run.json"))
    split = _section(recipe, "evaluate").get("split", "test")
    declared, chain, history = Declared.of(path), read_run_chain(path), read_history(path)
    main = main_stages(chain)
    predictions = _predictions(path, declared, notes)
    arms = _arms(path, predictions, names, split, declared, notes)
    index = notes.attempt(
        "archive",
        lambda: index_archive(path / "archive", chain.names, main.grpo, history.beginnings),
        ArchiveIndex(),
    )
    grpo = chain.get(main.grpo, None)
    curves = notes.attempt(
        "metrics.jsonl",
        lambda: read_curves(path / "metrics.jsonl", history.beginnings),
        list[StageCurves](),
    )
    reward = _config(RewardConfig, _section(recipe, "reward"), notes)
    return _RunFiles(
        recipe=recipe,
        labels=labels,
        predictions=predictions,
        arms=arms,
        index=index,
        curves=curves,
        reader=TraceReader.of(reward, labels),
        prompts=Prompts(
            labels,
            _config(PromptsConfig, _section(recipe, "prompts"), notes),
            _section(recipe, "data").get("use_side_text") is True,
        ),
        warnings=notes.attempt("warnings", lambda: list(_warnings(path)), list[str]()),
        loss=grpo.loss if isinstance(grpo, GrpoStage) else GrpoLossConfig(),
        declared=declared,
        chain=chain,
    )


def _read_traces(path: Path, files: _RunFiles, max_clips: int, notes: _Notes) -> _Traces:
    """Read the traces of guards, chosen clips and training groups from the archive."""
    archive = path / "archive"
    chosen = choose_clips(files.predictions, files.index.failed, max_clips, files.chain.names)
    guards = notes.attempt(
        "guards",
        lambda: guard_records(files.curves, archive, files.reader, files.prompts),
        list[StageGuards](),
    )
    clips = notes.attempt(
        "traces",
        lambda: clip_records(path, files.predictions, chosen, archive, files.chain.names),
        list[ClipRecord](),
    )
    groups = notes.attempt(
        "groups",
        lambda: group_records(
            archive, files.index, files.labels, files.loss, main_stages(files.chain)
        ),
        list[GroupRecord](),
    )
    return _Traces(guards=tuple(guards), clips=tuple(clips), groups=tuple(groups))


def _predictions(path: Path, declared: Declared, notes: _Notes) -> Predictions:
    """Read predictions of the stages in their order, then of the head and the arms."""
    predictions = {}
    files = prediction_files(path)
    order = list(dict.fromkeys([*declared.stages, *declared.heads, *declared.titles, *files]))
    for name in (name for name in order if name in files):
        answers = notes.attempt(
            f"predictions of {name}", partial(read_light, files[name]), list[Prediction]()
        )
        if answers:
            predictions[name] = answers
    return predictions


def _arms(
    path: Path,
    predictions: Predictions,
    names: tuple[str, ...],
    split: str,
    declared: Declared,
    notes: _Notes,
) -> list[ArmFigures]:
    arms: list[ArmFigures] = []
    for name, answers in predictions.items():
        read = partial(arm_figures, path, {name: answers}, names, split, declared)
        arms += notes.attempt(f"figures of {name}", read, list[ArmFigures]())
    return arms


def _run_facts(
    path: Path, recipe: dict[str, Any], curves: list[StageCurves], notes: _Notes
) -> RunFacts:
    results = notes.attempt("done.json", lambda: dict(_results(path)), dict[str, Any]())
    summary = notes.attempt("summary.json", lambda: _summary(path), dict[str, Any]())
    sizes, with_trace = notes.attempt(
        "manifest", lambda: manifest_sizes(Path(recipe["data"]["manifest"])), (Counter[str](), 0)
    )
    chain = read_run_chain(path)
    done = tuple(stage for stage in chain.names if stage in results)
    calibrated = results.get(main_stages(chain).calibrated, {})
    peaks = [result["peak_memory_gb"] for result in results.values() if "peak_memory_gb" in result]
    spent = {name: result.get("seconds", 0.0) for name, result in results.items()}
    return RunFacts(
        name=path.resolve().name,
        model=str(recipe.get("model", "")),
        seed=recipe.get("seed"),
        labels=tuple(sorted((one["name"], one.get("definition", "")) for one in recipe["labels"])),
        split=_section(recipe, "evaluate").get("split", "test"),
        sizes=dict(sizes),
        num_with_trace=with_trace,
        stages_done=done,
        stages_left=tuple(stage for stage in chain.names if stage not in done),
        failure=failure_of(path),
        seconds_stages=sum(seconds for name, seconds in spent.items() if name in chain),
        seconds_controls=sum(seconds for name, seconds in spent.items() if name not in chain),
        started=_utc(min((one.first_time for one in curves), default=None)),
        last_sign=_utc(max((one.last_time for one in curves), default=None)),
        num_attempts=1 + max((one.last_attempt for one in curves), default=0),
        started_from=describe_source(read_started_from(path)),
        changes=read_history(path).changes,
        prompts=prompt_versions(results.values()),
        peak_memory_gb=max(peaks, default=None),
        versions=summary.get("versions", {}),
        calibration_traces=calibrated.get("traces"),
        agreement=calibrated.get("agreement"),
        generated=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _results(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read done.json of every finished stage and arm."""
    for folder in sorted((path / "stages").glob("*")):
        result = read_result(path, folder.name)
        if result is not None:
            yield folder.name, result


def _warnings(path: Path) -> Iterator[str]:
    rows = current_rows(read_rows(path / "metrics.jsonl"), read_history(path).beginnings)
    finished = {name: result.get("warnings", []) for name, result in _results(path)}
    for stage, lines in (warnings_of(rows) | finished).items():
        yield from (f"{stage}: {line}" for line in lines)


def _summary(path: Path) -> dict[str, Any]:
    file = path / "summary.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _config(model: type[C], values: dict[str, Any], notes: _Notes) -> C:
    """Section of the recipe; defaults where another version wrote the recipe."""
    return notes.attempt("run.json", lambda: validate(model, values, "run.json"), model())


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    return section if isinstance(section, dict) else {}


def _utc(seconds: float | None) -> str | None:
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
