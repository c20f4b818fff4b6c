"""Checkpoints of a stage: what to save them as, which to take up, how many to keep."""

import shutil

from cluster.loop_state import LOOP_FILE, LoopState
from cluster.progress import console
from cluster.session import Session
from learner.checkpoint import latest

_KEEP = 2  # the last, and the one before it, to go back to by hand if the last is damaged


class Checkpoints:
    """Of one stage of a run."""

    def __init__(self, session: Session, stage: str) -> None:
        self._session, self._stage = session, stage
        self._directory = session.run_dir.checkpoints(stage)

    async def resume(self) -> LoopState:
        """Load the newest whole checkpoint; returns where it stood, the start without one."""
        tag = latest(self._directory)
        if tag is None:
            return LoopState()
        await self._session.learner.load(str(self._directory), tag)
        console.print(f"{self._stage}: going on from checkpoint {tag}")
        return LoopState.read(self._directory / tag)

    async def save(self, state: LoopState) -> None:
        """Save, then drop those before the last two."""
        tag = f"step-{state.step:06d}"
        await self._session.learner.save(str(self._directory), tag, {LOOP_FILE: state.to_json()})
        for old in sorted(self._directory.glob("step-*"))[:-_KEEP]:
            shutil.rmtree(old)
