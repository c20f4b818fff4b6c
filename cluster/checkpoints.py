"""Checkpoints of a stage: what to save them as, which to take up, how many to keep.

A step says all about the sampler: order and seeds are functions of the seed and the step
(cluster/sampler.py).
"""

import shutil

from cluster.progress import console
from cluster.session import Session
from learner.checkpoint import latest

_KEEP = 2  # the last, and the one before it, to go back to by hand if the last is damaged


class Checkpoints:
    """Of one stage of a run."""

    def __init__(self, session: Session, stage: str) -> None:
        self._session, self._stage = session, stage
        self._directory = session.run_dir.checkpoints(stage)

    async def resume(self) -> int:
        """Load the newest whole checkpoint; returns its step (GRPO) or epoch, 0 without one."""
        tag = latest(self._directory)
        if tag is None:
            return 0
        await self._session.learner.load(str(self._directory), tag)
        console.print(f"{self._stage}: going on from checkpoint {tag}")
        return int(tag.removeprefix("step-"))

    async def save(self, step: int) -> None:
        """Save, then drop those before the last two."""
        await self._session.learner.save(str(self._directory), f"step-{step:06d}")
        for old in sorted(self._directory.glob("step-*"))[:-_KEEP]:
            shutil.rmtree(old)
