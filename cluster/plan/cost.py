"""Estimates the time and price of a planned run from the times of a finished run.

    done.json, metrics.jsonl, run.json of a run -> seconds per unit of each kind of work
    Plan (its counts)                           -> seconds, GPU-hours, cost

Only counts are scaled. What else differs between the two recipes is named, not corrected: nobody
knows from one run how its seconds depend on the model, the clip's size or the number of workers.
"""

import math
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from cluster.config.chain import Chain, read_chain
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.rationales import RationalesStage
from cluster.config.kinds.semantic_tokens import SemanticTokensStage
from cluster.config.kinds.sft import SftStage
from cluster.config.recipe import RunConfig
from cluster.metrics.metrics_file import is_validation, read_rows
from cluster.plan.types import Plan, StagePlan
from cluster.run_files import read_recipe_file, read_result, result_figures
from wire.config import flatten
from wire.errors import ConfigError, DataError

Row = dict[str, Any]

_PHASES = ("update_actor", "update_weights", "archive", "save", "validate")

# Settings that change what one unit of work costs; all others are in the counts, or cost nothing.
_MATTERS = re.compile(
    r"model|video\.(?!cache_dir|decode_timeout_s).*|rollout\.(?!.*timeout_s|temperature).*"
    r"|learner\.(?!timeout_s).*|transfer\.kind|grpo\.(groups_per_update|max_staleness|ppo_epochs)"
    r"|grpo\.filter_groups\..*|grpo\.loss\.(kl_loss_coef|kl_coef|entropy_coeff|old_logprobs)"
    r"|coldstart\.batch_size|calibrate\.(batch_size|methods)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One kind of work of a stage: measured seconds, scaled by a count.

    Example:
        Part(stage="grpo", work="rollouts", unit="traces", measured_seconds=190.0,
             measured_count=20480, count=40960, seconds=380.0)
    """

    stage: str
    work: str
    unit: str
    measured_seconds: float
    measured_count: int
    count: int | None
    """None: unknown without the manifest."""
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """Expected seconds of a stage; None: the run did not measure it, or a count is unknown."""

    name: str
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Estimated seconds, GPU-hours and price of a run, with the assumptions."""

    measured_run: str
    parts: tuple[Part, ...]
    stages: tuple[StageCost, ...]
    seconds: float
    """Sum over the stages whose time is known."""
    is_whole: bool
    """False: a stage is unknown, and all sums are lower bounds."""
    gpus: float
    """Reserved all the time, working or not."""
    gpu_hours: float
    price: float | None
    """None: no price was given."""
    assumptions: tuple[str, ...]


class _Taken(NamedTuple):
    """Measured seconds of one kind of work, the unit they grow with, and its count."""

    work: str
    unit: str
    seconds: float
    amount: int


class _Run(NamedTuple):
    """Recipe, results and times read from a finished run."""

    path: Path
    recipe: dict[str, Any]
    chain: Chain
    rows: list[Row]


def estimate(
    plan: Plan, config: RunConfig, run_dir: Path, price_per_gpu_hour: float | None
) -> Cost:
    """Scale the times of the run in ``run_dir`` to a plan.

    Raises ConfigError if there is no run, or none of the planned stages finished in it.
    """
    run = _read_run(run_dir)
    taken = {stage.name: _taken(run, stage.name) for stage in plan.stages}
    if not any(taken.values()):
        names = ", ".join(taken)
        raise ConfigError(
            f"{run_dir} has no timings of {names}: none of them has finished there; "
            "give --measured a run whose stages have ended"
        )
    parts = [
        _scale(stage, piece, plan) for stage in plan.stages for piece in taken[stage.name] or ()
    ]
    stages = tuple(_stage_cost(stage.name, parts) for stage in plan.stages)
    seconds = math.fsum(stage.seconds or 0.0 for stage in stages)
    gpus = plan.rollout.gpus + plan.learner.gpus
    hours = gpus * seconds / 3600
    return Cost(
        measured_run=str(run_dir),
        parts=tuple(parts),
        stages=stages,
        seconds=seconds,
        is_whole=all(stage.seconds is not None for stage in stages),
        gpus=gpus,
        gpu_hours=hours,
        price=None if price_per_gpu_hour is None else price_per_gpu_hour * hours,
        assumptions=tuple(_assumptions(run, plan, config, stages)),
    )


def _read_run(path: Path) -> _Run:
    recipe = read_recipe_file(path)
    try:
        rows = [dict(row) for row in read_rows(path / "metrics.jsonl") if "time" in row]
    except OSError as error:
        raise DataError(f"cannot read the run in {path}: {error}; give another") from error
    return _Run(path, recipe, read_chain(recipe), rows)


def _taken(run: _Run, name: str) -> list[_Taken] | None:
    """Work and times of a finished stage; None: it has not finished there, or left no timings."""
    result, stage = read_result(run.path, name), run.chain.get(name, None)
    if result is None or stage is None:
        return None
    if isinstance(stage, SftStage):
        return _with_validations(run, name, _taken_by_sft(run, stage, result))
    if isinstance(stage, GrpoStage):
        return _taken_by_grpo(run, stage, result)
    if isinstance(stage, CalibrateStage):
        return _with_validations(run, name, _taken_by_calibration(run, stage, result))
    if isinstance(stage, RationalesStage):
        written = result["rationales"]["num_written"]
        return [_Taken("rationales", "texts", result["seconds"], written)]
    if isinstance(stage, SemanticTokensStage):
        return [_Taken("tokenizing", "learned clips", result["seconds"], result["num_learned"])]
    return [_Taken("measuring", "clips", result["seconds"], _evaluated(result))]


def _with_validations(run: _Run, name: str, taken: list[_Taken] | None) -> list[_Taken] | None:
    """The work of a stage that waits for its validations, with them."""
    rows = _validations(run, name)
    if taken is None or not rows:
        return taken
    return [*taken, _validating(sum(row["val/seconds"] for row in rows), rows)]


def _validating(seconds: float, rows: Sequence[Row]) -> _Taken:
    count = sum(int(row["val/num_clips"]) for row in rows)
    return _Taken("validations", "validated clips", seconds, count)


def _taken_by_sft(run: _Run, stage: SftStage, result: Row) -> list[_Taken] | None:
    training = _training_seconds(run, stage.name)
    if training is None:
        return None
    spent, per_stage = training
    rest = _rest(result["seconds"], spent)
    if stage.data == "own":  # of the traces written, the plan does not know how many are kept
        written, measured = result["num_rollouts"], _evaluated(result)
        return [
            _Taken("training", "traces x epochs", per_stage, written * stage.epochs),
            _Taken("rollouts, measuring", "traces + clips", rest, written + measured),
        ]
    counts = (result.get(f"num_{what}") or 0 for what in ("traces", "labels", "rationales"))
    examples = int(sum(counts)) * stage.epochs
    return [
        _Taken("training", "traces x epochs", per_stage, examples),
        _Taken("measuring", "clips", rest, _evaluated(result)),
    ]


def _taken_by_grpo(run: _Run, stage: GrpoStage, result: Row) -> list[_Taken] | None:
    steps = {row["step"]: row for row in _rows(run, stage.name) if "timing_s/step" in row}
    if not steps:
        return None
    rows = list(steps.values())
    traces = len(rows) * stage.groups_per_step * run.recipe["rollout"]["group_size"]
    phases = {name: sum(row.get(f"timing_s/{name}", 0.0) for row in rows) for name in _PHASES}
    whole = sum(row["timing_s/step"] for row in rows)
    last = [row for row in rows if row["attempt"] == rows[-1]["attempt"]]
    spent = sum(row["timing_s/step"] for row in last)
    saves = sum("timing_s/save" in row for row in rows)
    validations = _validations(run, stage.name)
    # what they took beside rollouts and updates is in those
    validating = [_validating(phases["validate"], validations)] if validations else []
    return [
        _Taken("rollouts and rewards", "traces", whole - sum(phases.values()), traces),
        _Taken("updates", "traces", phases["update_actor"], traces),
        _Taken("archive", "traces", phases["archive"], traces),
        _Taken("weights to engines", "steps", phases["update_weights"], len(rows)),
        _Taken("checkpoints", "saves", phases["save"], saves),
        _Taken("measuring", "clips", _rest(result["seconds"], spent), _evaluated(result)),
        *validating,
    ]


def _taken_by_calibration(run: _Run, stage: CalibrateStage, result: Row) -> list[_Taken] | None:
    training = _training_seconds(run, stage.name) if "verdict" in result else (0.0, 0.0)
    if training is None:
        return None
    traces = result["traces"]["num_traces"]
    spent, per_stage = training
    rest = _Taken(
        "traces, head, measuring",
        "traces + clips",
        _rest(result["seconds"], spent),
        result.get("num_rollouts", traces) + _evaluated(result),
    )
    if not per_stage:
        return [rest]
    return [_Taken("training", "traces x epochs", per_stage, traces * stage.epochs), rest]


def _rows(run: _Run, stage: str) -> list[Row]:
    return [row for row in run.rows if row["stage"] == stage and not is_validation(row)]


def _validations(run: _Run, stage: str) -> list[Row]:
    return [row for row in run.rows if row["stage"] == stage and is_validation(row)]


def _training_seconds(run: _Run, stage: str) -> tuple[float, float] | None:
    """Seconds of the last attempt's training, validations included, and of all updates at its pace
    without; None: fewer than two updates, so no pace."""
    rows = _rows(run, stage)
    last = [row for row in rows if row["attempt"] == rows[-1]["attempt"]]
    if len(last) < 2:
        return None
    start, end = last[0]["time"], last[-1]["time"]
    validating = [r["val/seconds"] for r in _validations(run, stage) if start < r["time"] < end]
    pace = (end - start - sum(validating)) / (len(last) - 1)
    validated = [r for r in _validations(run, stage) if r["attempt"] == last[0]["attempt"]]
    spent = pace * len(last) + sum(row["val/seconds"] for row in validated)
    return spent, pace * len({row["step"] for row in rows})


def _rest(seconds: float, trained: float) -> float:
    """Seconds of a stage without its training, from the attempt that finished the stage (its
    training may have been done before)."""
    return seconds - trained if seconds >= trained else seconds


def _evaluated(result: dict[str, Any]) -> int:
    return int(result_figures(result)["num_samples"])


def _scale(stage: StagePlan, taken: _Taken, plan: Plan) -> Part:
    count = _planned(stage, taken.unit, plan)
    known = count is not None and (taken.amount or not count)
    per_unit = taken.seconds / taken.amount if taken.amount else 0.0
    return Part(
        stage=stage.name,
        work=taken.work,
        unit=taken.unit,
        measured_seconds=taken.seconds,
        measured_count=taken.amount,
        count=count,
        seconds=per_unit * count if known and count is not None else None,
    )


def _planned(stage: StagePlan, unit: str, plan: Plan) -> int | None:
    clips = None if plan.measurement is None else plan.measurement.clips
    if unit == "clips":
        return clips
    if unit == "learned clips":
        return stage.clips
    if unit in ("traces", "texts"):
        return stage.examples if unit == "traces" else stage.rollouts
    if unit == "validated clips":
        return stage.validated
    if unit == "traces + clips":
        return None if stage.rollouts is None or clips is None else stage.rollouts + clips
    if unit == "traces x epochs":
        known = stage.examples is not None and stage.epochs is not None
        return round((stage.examples or 0) * (stage.epochs or 0)) if known else None
    return stage.steps if unit == "steps" else stage.saves


def _stage_cost(name: str, parts: Iterable[Part]) -> StageCost:
    seconds_of = [part.seconds for part in parts if part.stage == name]
    known = [seconds for seconds in seconds_of if seconds is not None]
    whole = bool(seconds_of) and len(known) == len(seconds_of)
    return StageCost(name=name, seconds=math.fsum(known) if whole else None)


def _assumptions(
    run: _Run, plan: Plan, config: RunConfig, stages: Sequence[StageCost]
) -> list[str]:
    assumptions = [
        "each kind of work takes as long per trace, clip or step as in the measured run",
        "starting Ray, engines and learner, and control arms, are not counted",
        _machine(run.path),
    ]
    lengths = [row["response_length/mean"] for row in run.rows if "response_length/mean" in row]
    if lengths:
        then, now = run.recipe["rollout"]["max_response_length"], config.rollout
        assumptions.append(
            f"traces are as long as there, {fmean(lengths):.1f} tokens on average (at most {then} "
            f"there, {now.max_response_length} here)"
        )
    if differing := _differing(run, config):
        assumptions.append(
            f"only counts are scaled, and the run differs in more: {'; '.join(differing)}: "
            "the seconds do not know of it"
        )
    new = [s.name for s in plan.stages if s.validations != 0 and not _validations(run, s.name)]
    if new:
        assumptions.append(f"validations of {', '.join(new)} are not counted: none there")
    if unknown := [stage.name for stage in stages if stage.seconds is None]:
        assumptions.append(
            f"{', '.join(unknown)}: unknown, since the run did not finish it or the manifest is "
            "not here; the total is a lower bound"
        )
    if plan.rollout.gpus + plan.learner.gpus:
        assumptions.append("GPUs count from the first to the last stage, working or waiting")
    return assumptions


def _machine(run_dir: Path) -> str:
    """Host of a run: TensorBoard puts it into the names of its files."""
    names = sorted((run_dir / "tensorboard").glob("events.out.tfevents.*"))
    host = names[-1].name.split(".", 4)[-1].rsplit(".", 2)[0] if names else "unknown"
    here = socket.gethostname()
    where = f"'{host}', this is '{here}'" if host != here else f"'{host}', as this one is called"
    return f"the machine is as fast and as idle as the run's ({where})"


def _differing(run: _Run, config: RunConfig) -> list[str]:
    """Settings that change what a unit costs, as ``name = there, here``."""
    then, now = flatten(run.recipe), flatten(config.model_dump(mode="json"))
    names = sorted(
        name
        for name in then.keys() | now.keys()
        if _MATTERS.fullmatch(name) and then.get(name) != now.get(name)
    )
    if "model" in names and _same_model(Path(then["model"]), Path(now["model"])):
        names.remove("model")
    return [f"{name} = {then.get(name)} there, {now.get(name)} here" for name in names]


def _same_model(one: Path, other: Path) -> bool:
    try:
        return (one / "config.json").read_bytes() == (other / "config.json").read_bytes()
    except OSError:
        return one.name == other.name and one.parent.name == other.parent.name
