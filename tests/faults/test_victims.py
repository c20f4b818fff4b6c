import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from os import getpid

import pytest

from tests.faults.victims import below, engine_of, find, rollout_actors, runs

_SLEEP = "import time; time.sleep(60)"
_ACTOR = (
    "import subprocess, sys; "
    f"subprocess.Popen([sys.executable, '-c', {_SLEEP!r}, 'VLLM::EngineCore']); {_SLEEP}"
)


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """``start(program, title)``: a process with a title, ended with all below it."""
    with ExitStack() as stack:

        def started(program: str, title: str) -> "subprocess.Popen[bytes]":
            words = [sys.executable, "-c", program, title]
            process = subprocess.Popen(words, start_new_session=True)
            stack.callback(end, process)
            return process

        yield started


def end(process: "subprocess.Popen[bytes]") -> None:
    for child in below([process.pid]):
        child.kill()
    process.kill()
    process.wait(10)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_engine_is_found_below_its_actor_and_its_group_has_both(
    start: Callable[..., "subprocess.Popen[bytes]"],
):
    actors = [start(_ACTOR, "ray::RolloutActor") for _ in range(2)]
    roots = [actor.pid for actor in actors]
    wait_for(lambda: len(find("engine", [getpid()], 1).pids) == 1)
    # a child that is being started has its parent's title for a moment
    wait_for(lambda: [actor.pid for actor in rollout_actors([getpid()])] == roots)
    engine = find("engine", [getpid()], 0)
    assert engine.pids == [one.pid for one in engine_of(rollout_actors([getpid()])[0])]
    assert set(find("engine group", [getpid()], 0).pids) == {roots[0], *engine.pids}
    engine.send(signal.SIGKILL)
    wait_for(lambda: not runs(engine.pids[0]))
    assert runs(roots[0]), "the actor was not hit"


def test_a_role_that_nobody_has_is_no_hit(start: Callable[..., "subprocess.Popen[bytes]"]):
    start(_SLEEP, "ray::LearnerActor.train_step")
    wait_for(lambda: bool(find("rank", [getpid()]).pids))
    assert not find("rank", [getpid()], 1).pids
    assert not find("rank", [getpid()], -2).pids
    assert not find("engine", [getpid()]).pids
    assert not find("reward worker", [getpid()]).pids
