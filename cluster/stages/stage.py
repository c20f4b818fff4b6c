"""Runs one stage or control arm: loads its start weights into the engines, runs it, writes
done.json.

start weights -> engines -> stage -> seconds, peak memory -> done.json
    -> checkpoints deleted, but the last and the best
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.stage import Stage
from cluster.config.trainings import training_of
from cluster.driver.peak_memory import MemoryWatch
from cluster.inputs.policies import note_policy
from cluster.metrics.metrics_file import current_rows, read_rows, warnings_of
from cluster.resume.archived_groups import ReusableGroups
from cluster.resume.checkpoints import KeepBest, keep_of_finished
from cluster.resume_plan import newest_checkpoint
from cluster.run_files import read_history
from cluster.session import Session
from cluster.stages.policy_versions import Weights
from cluster.stages.watchdog import Watchdog
from wire.daemon_thread import run_in_daemon_thread

S = TypeVar("S", bound=Stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """A stage or control arm about to run: what was declared, where it starts, how it runs."""

    stage: Stage
    run: "StageFn"
    start: Weights
    """The weights that it starts from."""
    first_step: int
    """Version step of the first weights that it serves."""
    last_step: int
    """Version step of the policy that it ends with."""
    exports: bool = True
    """Whether the policy that it ends with is kept as a model; False: a control arm."""
    archived: ReusableGroups | None = None
    """What a look through the archive found already, so that it is not read again."""

    @property
    def name(self) -> str:
        """Name of the stage or arm: in group ids, seeds, metrics, checkpoints and files."""
        return self.stage.name

    def of(self, kind: type[S]) -> S:
        """The declaration, as one of this kind."""
        assert isinstance(self.stage, kind), f"{self.name} is no {kind.__name__}"
        return self.stage


StageFn = Callable[[Session, StageRun], Awaitable[dict[str, Any]]]
"""A stage's function: trains or measures from its start weights; returns its part of done.json."""


async def run_stage(session: Session, run: StageRun, memory: MemoryWatch) -> None:
    """Run a stage to its end. Its done.json is written last: an interrupted stage has none."""
    before = time.monotonic()
    await session.show(session.config.chain.tokenizer(run.name))
    if run.stage.loads_engines:
        await session.ensure_engine_weights(run.start.model_dir, run.start.step)
    result = await _watched(session, run)
    if run.exports and run.stage.leaves_policy:
        result["weights_sha256"] = await run_in_daemon_thread(
            note_policy,
            session.run_dir.archive,
            session.version(run.last_step),
            run.name,
            session.run_dir.model(run.name),
        )
    result["seconds"] = time.monotonic() - before
    result["peak_memory_gb"] = memory.peak_gb
    result["prompt_versions"] = dict(session.config.prompt_set.versions)
    beginnings = read_history(session.run_dir.path).beginnings
    rows = current_rows(read_rows(session.run_dir.metrics), beginnings)
    if warnings := [*warnings_of(rows).get(run.name, ()), *result.get("warnings", ())]:
        result["warnings"] = warnings
    training = training_of(run.stage) if run.exports else None
    if training is not None:
        # by these a resume with more steps knows that it goes on, and from which checkpoint
        result["length"] = training.length
        result["last_step"] = newest_checkpoint(session.run_dir.path, run.name)
    session.run_dir.finish(run.name, result)
    keep_of_finished(
        session.run_dir.checkpoints(run.name),
        best_kept_of(run.stage),
        keep_last=training is not None and session.config.keep_final_checkpoints,
        left_step=result.get("validation", {}).get("left_step"),
    )


async def _watched(session: Session, run: StageRun) -> dict[str, Any]:
    """What a stage's function returns. A training is watched: each of its steps writes figures."""
    work = run.run(session, run)
    if training_of(run.stage) is None:
        return await work
    watchdog = Watchdog(session.config.watchdog, session.run_dir.path, session.events)
    return await watchdog.guard(run.name, work, lambda: session.metrics.num_written)


def best_kept_of(stage: Stage) -> KeepBest:
    """Which of a stage's checkpoints are kept for being the best."""
    if not isinstance(stage, GrpoStage):
        return KeepBest()
    return KeepBest(count=stage.keep_best, metric=stage.keep_best_by, mode=stage.best_mode)
