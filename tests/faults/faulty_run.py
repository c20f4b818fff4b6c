"""The command line with faults at exact moments of GRPO steps. (No test file.)

    python -m tests.faults.faulty_run FAULTS.json grpo recipe.toml --run-dir DIR ...

The program itself is as it is: its verbs are wrapped here, from outside. Of each fault a witness is
written to ``faults.jsonl`` in the run directory. The step after the next begins only once the fault
is healed (or its ``limit_s`` is over, which the checker reports), so that what came back is used.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import cli
from cluster.actors.learner_group import LearnerGroup
from cluster.actors.rollout_pool import RolloutPool
from cluster.session import Session
from cluster.stages.grpo.step import GrpoLearner
from tests.faults import inside, other_acts, victims
from tests.faults.fault import Fault, Witness
from tests.faults.healing import healed_at
from wire.archive.archive import Archive
from wire.types import TraceGroup

HELD_AFTER = 2
"""Steps from a fault to the one that waits until it is healed."""
ROOTS = "DEEPINTUIT_TEST_FAULT_ROOTS"
"""Environment variable: process ids of the raylets, where the cluster is not the driver's."""

_SERVING_S = 0.05
_LOOK_S = 0.1


class Injector:
    """Injects the faults of a run, and keeps what it has to know of the run for the witnesses."""

    def __init__(self, faults: Sequence[Fault], run_dir: Path) -> None:
        self._waiting, self._faults, self._run_dir = list(faults), faults, run_dir
        self.step = 0
        self.in_flight = 0
        self.publishing = self.training = False

    def due(self, *moments: str) -> Fault | None:
        """The fault that is to come at one of these moments."""
        return next((f for f in self._waiting if f.moment in moments and self.step >= f.step), None)

    def at(self, *moments: str) -> None:
        """It is now, if a fault is due."""
        fault = self.due(*moments)
        if fault and self._act(fault):
            self._waiting.remove(fault)

    async def arm(self, learner: LearnerGroup) -> None:
        """Let a rank do it, if a fault is due in one: at the next such call there."""
        fault = self.due(*inside.ACTS, "mid-update")
        if fault is None:
            return
        self._waiting.remove(fault)
        if fault.moment in inside.ACTS:
            rank = learner._actors[fault.index]
            self._write(fault, [await rank.__ray_call__.remote(inside.ACTS[fault.moment])])
        else:
            hit, number = self._victims(fault), signal.Signals[f"SIG{fault.act}"]
            rank = learner._actors[0]
            await rank.__ray_call__.remote(inside.after_first_bucket, hit.pids, int(number))
            self._write(fault, hit.pids)

    def _act(self, fault: Fault) -> bool:
        """Do it; False if there is nobody yet to do it to."""
        if fault.act not in ("KILL", "STOP"):
            self._write(fault, [], **other_acts.begin(fault, self._run_dir))
            return True
        hit = self._victims(fault)
        if not hit.pids:
            return False
        self._write(fault, hit.pids)
        hit.send(signal.Signals[f"SIG{fault.act}"])
        if fault.for_s:
            threading.Timer(fault.for_s, hit.send, [signal.SIGCONT]).start()
        return True

    def _victims(self, fault: Fault) -> victims.Victims:
        roots = json.loads(os.environ.get(ROOTS, "null")) or [os.getpid()]
        return victims.find(fault.role, roots, fault.index)

    def _write(self, fault: Fault, pids: Sequence[int], **more: Any) -> None:
        Witness(
            name=fault.name,
            time=time.time(),
            step=self.step,
            pids=pids,
            in_flight=self.in_flight,
            publishing=self.publishing,
            training=self.training,
            below=[process.pid for process in victims.below([os.getpid()])],
            more=more,
        ).write(self._run_dir)

    async def healed(self) -> None:
        """Wait until what was hit two steps ago is healed, or its limit is over."""
        for fault in self._faults:
            is_waited_for = fault.healed_by in ("worker", "rank")  # others are told of by steps
            if is_waited_for and self.step == fault.step + HELD_AFTER:
                end = time.monotonic() + fault.limit_s
                while time.monotonic() < end and healed_at(self._run_dir, fault) is None:
                    await asyncio.sleep(_LOOK_S)

    @contextmanager
    def phase(self, name: str) -> Any:
        """``training`` or ``publishing`` during the block."""
        setattr(self, name, True)
        try:
            yield
        finally:
            setattr(self, name, False)


def wrap(injector: Injector) -> None:
    """Put the moments into the program."""
    _wrap_step(injector)
    _wrap_learner(injector)
    _wrap_pool(injector)
    _wrap_archive(injector)


def _wrap_step(injector: Injector) -> None:
    grpo: Any = GrpoLearner
    train = grpo.train

    async def training(self: GrpoLearner, taken: Any, step: int) -> None:
        injector.step = step
        await injector.healed()
        while injector.due("idle") and injector.in_flight:  # until the buffer is full
            await asyncio.sleep(_LOOK_S)
        injector.at("idle")
        await injector.arm(self._parts.learner)
        await train(self, taken, step)

    grpo.train = training


def _wrap_learner(injector: Injector) -> None:
    learner: Any = LearnerGroup
    train, publish = learner.train_step, Session.publish

    async def updating(self: LearnerGroup, *values: Any) -> Any:
        with injector.phase("training"):
            work = asyncio.ensure_future(train(self, *values))
            if injector.due("in-update"):
                await asyncio.sleep(_SERVING_S)
                injector.at("in-update")
            return await work

    async def publishing(self: Session, step: int) -> Any:
        with injector.phase("publishing"):
            return await publish(self, step)

    learner.train_step, Session.publish = updating, publishing  # type: ignore[method-assign]


def _wrap_pool(injector: Injector) -> None:
    pool: Any = RolloutPool
    answer: Callable[..., Any] = pool.answer

    async def answering(self: RolloutPool, *values: Any, **named: Any) -> Any:
        injector.in_flight += 1
        try:
            work = asyncio.ensure_future(answer(self, *values, **named))
            if injector.due("serving") and injector.in_flight > 2:
                await asyncio.sleep(_SERVING_S)
                injector.at("serving")
            return await work
        finally:
            injector.in_flight -= 1

    pool.answer = answering


def _wrap_archive(injector: Injector) -> None:
    archive: Any = Archive
    append = archive.append

    def appending(self: Archive, group: TraceGroup) -> None:
        injector.at("append")
        append(self, group)

    archive.append = appending


def main(words: Sequence[str]) -> int:
    """Run the command line with the faults."""
    faults, rest = json.loads(Path(words[0]).read_text()), list(words[1:])
    run_dir = Path(rest[rest.index("--run-dir") + 1])
    wrap(Injector([Fault(**fault) for fault in faults], run_dir))
    return cli.main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
