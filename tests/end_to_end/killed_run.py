"""The command line with a kill -9 at a moment of a GRPO step. (No test file.)

    python -m tests.end_to_end.killed_run WHO:WHEN:COUNT run recipe.toml --run-dir DIR ...

WHO is the driver, the learner, the rollout worker or vLLM's engine; WHEN one of ``MOMENTS``; COUNT
says at which time that this moment comes. The program itself is as it is: its verbs are wrapped
here, from outside.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable
from typing import Any

import psutil

from cluster import cli
from cluster.actors.learner_group import LearnerGroup
from cluster.metrics.metrics_log import MetricsLog
from wire.archive.archive import Archive
from wire.types import Purpose, TraceGroup

_TITLES = {"learner": "LearnerActor", "rollout": "RolloutActor", "engine": "VLLM::"}
MOMENTS = (
    "before-append",
    "after-append",
    "in-update",
    "in-handoff",
    "in-save",
    "before-metrics",
    "before-compact",
)
OF_OTHER_STAGES = ("after-measured", "in-supervised")
"""A trace that is not for training has been archived; an update of a supervised stage."""


class Killer:
    """Counts the times that the moment comes, and then kills."""

    def __init__(self, who: str, when: str, count: int) -> None:
        assert when in (*MOMENTS, *OF_OTHER_STAGES), when
        self.when = when
        self._who, self._left = who, count

    def at(self, when: str) -> None:
        """It is now."""
        if when != self.when:
            return
        self._left -= 1
        if self._left == 0:
            self._kill()

    async def within(self, when: str, work: Awaitable[Any], delay_s: float) -> Any:
        """The moment is inside of this work."""
        if when != self.when:
            return await work
        self._left -= 1
        if self._left != 0:
            return await work
        task = asyncio.ensure_future(work)
        await asyncio.sleep(delay_s)
        self._kill()
        return await task

    def _kill(self) -> None:
        below = psutil.Process().children(recursive=True)
        pids = " ".join(str(process.pid) for process in below)
        sys.stderr.write(f"KILLED {self._who} {self.when}: {pids}\n")
        sys.stderr.flush()
        if self._who == "driver":
            os.kill(os.getpid(), signal.SIGKILL)
        for process in below:
            if _TITLES[self._who] in " ".join(process.cmdline()):
                process.kill()


def wrap(killer: Killer) -> None:
    """Put the moments into the program."""
    _wrap_driver(killer)
    learner: Any = LearnerGroup
    train, publish, save = learner.train_step, learner.publish, learner.save

    async def training(self: LearnerGroup, rows: Any, objective: str, rate: float) -> Any:
        work = train(self, rows, objective, rate)
        when = "in-update" if objective == "grpo" else "in-supervised"
        return await killer.within(when, work, 0.05)

    async def publishing(self: LearnerGroup, version: Any, names: Any) -> Any:
        work = publish(self, version, names)
        return await (killer.within("in-handoff", work, 0.01) if version.step > 1 else work)

    async def saving(self: LearnerGroup, directory: str, *rest: Any) -> None:
        work = save(self, directory, *rest)
        await (killer.within("in-save", work, 0.03) if "grpo" in directory else work)

    learner.train_step, learner.publish, learner.save = training, publishing, saving


def _wrap_driver(killer: Killer) -> None:
    archive: Any = Archive
    log: Any = MetricsLog
    append, compact, write = archive.append, archive.compact, log.write

    def appending(self: Archive, group: TraceGroup) -> None:
        trains = group.purpose is Purpose.TRAIN
        if trains:
            killer.at("before-append")
        append(self, group)
        killer.at("after-append" if trains else "after-measured")

    def compacting(self: Archive, step: int) -> Any:
        killer.at("before-compact")
        return compact(self, step)

    def writing(self: MetricsLog, stage: str, *rest: Any) -> None:
        if stage == "grpo":
            killer.at("before-metrics")
        write(self, stage, *rest)

    archive.append, archive.compact, log.write = appending, compacting, writing


if __name__ == "__main__":
    who, when, count = sys.argv[1].split(":")
    wrap(Killer(who, when, int(count)))
    sys.exit(cli.main(sys.argv[2:]))
