"""Runs one stage or control arm: loads its start weights into the engines, runs it, writes
done.json.

start weights -> engines -> stage -> seconds, peak memory -> done.json
    -> checkpoints deleted, but the best
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.driver.peak_memory import MemoryWatch
from cluster.resume.checkpoints import keep_best_alone
from cluster.session import Session
from cluster.stages.policy_versions import Weights

StageFn = Callable[[Session, Path], Awaitable[dict[str, Any]]]
"""A stage's function: trains or measures from the weights in a folder; returns its part of
done.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage or control arm, and the function that runs it."""

    name: str
    run: StageFn
    loads_engines: bool = True
    """Whether the engines must hold the start weights; False: the stage writes no traces with
    them."""


async def run_stage(session: Session, stage: Stage, start: Weights, memory: MemoryWatch) -> None:
    """Run a stage to its end. Its done.json is written last: an interrupted stage has none."""
    before = time.monotonic()
    if stage.loads_engines:
        await session.ensure_engine_weights(start.model_dir, start.step)
    result = await stage.run(session, start.model_dir)
    result["seconds"] = time.monotonic() - before
    result["peak_memory_gb"] = memory.peak_gb
    session.run_dir.finish(stage.name, result)
    # the exported model stays; the optimiser's state that made it is of no further use
    keep_best_alone(session.run_dir.checkpoints(stage.name), session.config.grpo.keep_best)
