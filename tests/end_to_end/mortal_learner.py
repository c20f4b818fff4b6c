"""A learner rank's actor that can be told to end itself at a moment of its work. (No test file.)

A file ``arm-RANK`` in the folder holds the moment; it is gone once the moment has come.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.actors.learner_actor import LearnerActor
from cluster.config.recipe import RunConfig
from learner.worker import LearnerWorker
from tests.learner.builders import RandomClips

FOLDER = "MORTAL_LEARNER"


class MortalLearner(LearnerActor):
    """A LearnerActor whose clips are random pixels."""

    def __init__(self, config: RunConfig, rank: int) -> None:
        super().__init__(config, rank)
        self.worker = LearnerWorker(config.learner, config.grpo.loss, RandomClips())  # type: ignore[arg-type]
        self._arm = Path(os.environ[FOLDER]) / f"arm-{rank}"

    def begin(self, *values: Any) -> None:
        super().begin(*values)
        engine = self.worker.engine
        engine.forward = self._mortal("forward", engine.forward)
        engine.step = self._mortal("reduce", engine.step)
        engine.save = self._mortal("save", engine.save)

    def _mortal(self, moment: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def working(*values: Any) -> Any:
            armed = self._arm.read_text() if self._arm.exists() else ""
            if armed.split(":")[0] == moment:
                self._arm.unlink()
                if moment == "reduce":
                    time.sleep(0.5)  # so that the other rank waits in its all-reduce
                os.kill(os.getpid(), getattr(signal, armed.split(":")[1]))
            return work(*values)

        return working
