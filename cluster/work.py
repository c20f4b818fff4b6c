"""What leaves a result in a run directory, a stage or a control arm, and how it is run.

start weights into the engines -> work -> seconds, peak memory -> done.json
    -> checkpoints dropped, but the best
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cluster.checkpoints import keep_best_alone
from cluster.memory import MemoryWatch
from cluster.session import Session


class Weights(NamedTuple):
    """Weights on disk, and the version step that engines serve them under."""

    model_dir: Path
    step: int


Act = Callable[[Session, Path], Awaitable[dict[str, Any]]]
"""Does the work from the weights in a directory; returns what done.json keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One stage or arm."""

    name: str
    act: Act
    engines_hold: bool = True
    """Whether the engines must hold the weights it starts from; False: it writes no traces with
    them."""


async def run_work(session: Session, work: Work, start: Weights, memory: MemoryWatch) -> None:
    """Run it to its end; then its result is there, and before that nothing is."""
    before = time.monotonic()
    if work.engines_hold:
        await session.engines_hold(start.model_dir, start.step)
    result = await work.act(session, start.model_dir)
    result["seconds"] = time.monotonic() - before
    result["peak_memory_gb"] = memory.peak_gb
    session.run_dir.finish(work.name, result)
    # the exported model stays; the optimiser's state that made it is of no further use
    keep_best_alone(session.run_dir.checkpoints(work.name), session.config.grpo.keep_best)
