"""The injector acts at its moment, once, on its victims, and writes down what it saw."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.actors.rollout_pool import RolloutPool
from tests.faults import faulty_run
from tests.faults.fault import Fault, Witness
from tests.faults.faulty_run import Injector


@pytest.fixture
def victim() -> Iterator["subprocess.Popen[bytes]"]:
    words = [sys.executable, "-c", "import time; time.sleep(60)", "ray::RolloutActor"]
    process = subprocess.Popen(words)
    yield process
    process.kill()
    process.wait(10)


def make_fault(**changes: Any) -> Fault:
    values = {"name": "f", "role": "rollout actor", "moment": "serving", "step": 2}
    return Fault(**{**values, **changes})


async def answers(injector: Injector, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """``count`` requests at once to a pool that answers after a moment."""

    async def answer(_pool: Any, name: int) -> int:
        await asyncio.sleep(0.1)
        return name

    monkeypatch.setattr(RolloutPool, "answer", answer)
    faulty_run._wrap_pool(injector)
    pool: Any = RolloutPool.answer
    assert await asyncio.gather(*[pool(None, n) for n in range(count)]) == list(range(count))


async def test_a_fault_while_serving_waits_for_its_step_and_for_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: "subprocess.Popen[bytes]"
):
    injector = Injector([make_fault()], tmp_path)
    injector.step = 1
    await answers(injector, monkeypatch, 4)
    injector.step = 2
    await answers(injector, monkeypatch, 2)  # too few to be sure that the victim has one
    assert not Witness.read(tmp_path)
    assert victim.poll() is None
    await answers(injector, monkeypatch, 5)
    witness = Witness.read(tmp_path)["f"]
    assert (witness.pids, witness.step, witness.in_flight) == ([victim.pid], 2, 5)
    assert victim.wait(10) == -signal.SIGKILL
    before = (tmp_path / "faults.jsonl").read_text()
    await answers(injector, monkeypatch, 5)
    assert (tmp_path / "faults.jsonl").read_text() == before, "it came twice"


class Rank:
    """A rank's actor that takes calls of Ray's own."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.__ray_call__ = self

    async def remote(self, call: Any, *_values: Any) -> int:
        self.calls.append(call)
        return 77


async def test_a_fault_in_a_rank_is_armed_there(tmp_path: Path):
    ranks = [Rank(), Rank()]
    learner: Any = type("Learner", (), {"_actors": ranks})()
    injector = Injector([make_fault(role="rank", moment="all-reduce")], tmp_path)
    injector.step = 1
    await injector.arm(learner)
    assert not ranks[1].calls
    injector.step = 2
    await injector.arm(learner)
    await injector.arm(learner)
    assert (len(ranks[0].calls), len(ranks[1].calls)) == (0, 1)
    assert list(Witness.read(tmp_path)["f"].pids) == [77]


async def test_a_stopped_process_goes_on_after_its_time(
    tmp_path: Path, victim: "subprocess.Popen[bytes]"
):
    import psutil

    injector = Injector([make_fault(act="STOP", for_s=0.3, moment="in-update")], tmp_path)
    injector.step = 3
    injector.at("in-update")
    process = psutil.Process(victim.pid)
    states = set[str]()
    for _ in range(200):
        states.add(process.status())
        if psutil.STATUS_STOPPED in states and process.status() != psutil.STATUS_STOPPED:
            break
        await asyncio.sleep(0.02)
    else:
        pytest.fail(f"it was seen {states}")
