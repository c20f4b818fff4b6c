"""Runs the stages one after another, skips finished ones, and writes the summary.

base -> coldstart -> grpo -> calibrated -> summary.json
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from cluster.config.recipe import RunConfig
from cluster.config.stages import STAGES
from cluster.driver.daemon_thread import run_in_daemon_thread
from cluster.driver.peak_memory import MemoryWatch
from cluster.driver.progress import console
from cluster.inputs.preflight import bring_model
from cluster.inputs.samples import check_splits
from cluster.resume.archived_groups import ReusableGroups
from cluster.run_dir import RunDir
from cluster.session import open_session
from cluster.stages.calibration import run_calibration
from cluster.stages.coldstart import run_coldstart
from cluster.stages.evaluation import evaluate_base
from cluster.stages.grpo import run_grpo_stage
from cluster.stages.policy_versions import model_before
from cluster.stages.stage import Stage, StageFn, run_stage
from cluster.summary import summarise_run
from wire.errors import ConfigError
from wire.whole_file import write_json

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

    ``archived``: the groups for GRPO that were found in the archive before
    (cluster/commands/resume_summary.py). Raises UserError for what the user can mend; what is
    finished stays finished.
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
    acts: dict[str, StageFn] = {**_STAGE, "grpo": partial(run_grpo_stage, archived=archived)}
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


_STAGE: dict[str, StageFn] = {
    "base": evaluate_base,
    "coldstart": run_coldstart,
    "grpo": run_grpo_stage,
    "calibrated": run_calibration,
}
