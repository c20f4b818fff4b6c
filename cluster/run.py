"""Runs stages or control arms one after another, skips finished ones, and writes the summary.

chain of the recipe -> stages that have not finished -> summary.json
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from cluster.config.recipe import RunConfig
from cluster.driver.peak_memory import MemoryWatch
from cluster.driver.progress import console
from cluster.inputs.from_run import check_source, record_source, start_warnings
from cluster.inputs.preflight import bring_model
from cluster.inputs.samples import SampleSplits, check_stages
from cluster.resume.archived_groups import ReusableGroups
from cluster.run_dir import RunDir
from cluster.session import Session, open_session
from cluster.stages.stage import StageRun, run_stage
from cluster.stages.stage_functions import stage_run
from cluster.summary import summarise_run
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import ConfigError
from wire.whole_file import write_json

N = TypeVar("N", bound=str)

RunOf = Callable[[RunConfig, RunDir, N], StageRun]
"""Recipe, run directory, name of a stage or arm -> how it runs, from the weights that are there."""


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
    (cluster/commands/tables/resume.py). Raises UserError for what the user can mend; what is
    finished stays finished.
    """
    _refuse_stale(config, run_dir, _unfinished(run_dir, stages))
    run_of = partial(stage_run, archived=archived)
    return await run_all(
        config, run_dir, stages, run_of, partial(check_stages, config), debug=debug
    )


async def run_all(
    config: RunConfig,
    run_dir: RunDir,
    names: Sequence[N],
    run_of: RunOf[N],
    check_data: Callable[[SampleSplits, Sequence[N]], None],
    *,
    debug: bool,
) -> dict[str, Any]:
    """Run the unfinished stages or arms of ``names`` in one session, and write the summary. Returns
    the summary."""
    todo = _unfinished(run_dir, names)
    _refuse_left_out(run_dir, todo)
    if done := [name for name in names if name not in todo]:
        console.print(f"already finished in {run_dir.path}: {', '.join(done)}")
    with MemoryWatch() as memory:
        if todo:

            def check(data: SampleSplits) -> None:
                check_data(data, todo)
                check_source(config, run_dir.path)
                for line in start_warnings(config, data.samples):
                    console.print(f"warning: {line}", style="yellow", soft_wrap=True)

            config = await run_in_daemon_thread(bring_model, config, check)
            start = run_of(config, run_dir, todo[0]).start
            async with open_session(config, run_dir, check, *start, debug=debug) as session:
                run_dir.adopt(session.attempt)
                await run_in_daemon_thread(record_source, config, run_dir.path)
                try:
                    await run_each(session, todo, run_of, memory)
                except Exception as error:
                    with suppress(OSError):  # a full disk is the first error's matter
                        write_json(run_dir.summary, summarise_run(config, run_dir, error))
                    raise
    summary = summarise_run(config, run_dir)
    write_json(run_dir.summary, summary)
    return summary


async def run_each(
    session: Session, names: Sequence[N], run_of: RunOf[N], memory: MemoryWatch
) -> None:
    """Run stages or arms one after another, in the order given, each from the weights that are
    there when its turn comes."""
    for name in names:
        run = run_of(session.config, session.run_dir, name)
        if not run.exports:
            console.print(f"control arm {name}")
        await run_stage(session, run, memory)


def _unfinished(run_dir: RunDir, names: Sequence[N]) -> list[N]:
    return [name for name in names if run_dir.result(name) is None]


def _refuse_left_out(run_dir: RunDir, todo: Sequence[str]) -> None:
    """Raise ConfigError if a stage is to go on that is not among those to run: others would be run
    beside weights that are about to change."""
    if left := [name for name in run_dir.plan.reopened if name not in todo]:
        raise ConfigError(
            f"the recipe makes {', '.join(left)} in {run_dir.path} longer than it is, and this "
            "command does not run it; give `run` (or the command of its kind) with --resume first"
        )


def _refuse_stale(config: RunConfig, run_dir: RunDir, todo: Sequence[str]) -> None:
    """Raise ConfigError if a finished stage came from weights that a stage in ``todo`` changes."""
    for name in todo:
        later = [stage for stage in config.chain.dependents(name) if stage not in todo]
        if stale := [stage for stage in later if run_dir.result(stage) is not None]:
            raise ConfigError(
                f"{', '.join(stale)} in {run_dir.path} came from the weights before {name}; "
                "run the stages in their order, or in another --run-dir"
            )
