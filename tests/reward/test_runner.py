"""Hostile user functions, each in a real process."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from reward.runner import PluginRunner, Question, read_value
from wire.errors import ConfigError
from wire.types import Failure, FailureKind

HOSTILE = """
import os, pathlib, subprocess, sys, time

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    if solution_str == "sleep":
        time.sleep(60)
    if solution_str == "grandchild":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        pathlib.Path(ground_truth).write_text(str(child.pid))
        time.sleep(60)
    if solution_str == "exit":
        os._exit(3)
    if solution_str == "sys.exit":
        sys.exit("enough")
    if solution_str == "segfault":
        os.kill(os.getpid(), 11)
    if solution_str == "raise":
        raise KeyError("rubric")
    if solution_str == "recurse":
        return compute_score(data_source, solution_str, ground_truth)
    if solution_str == "bad repr":
        class Bad:
            def __repr__(self):
                raise ValueError("no repr")
        return Bad()
    if solution_str == "print":
        print("noise " * 100_000)
        sys.stderr.write("noise " * 100_000)
    if solution_str == "extra":
        return extra_info["fps"]
    if solution_str == "pid":
        return os.getpid()
    return {"score": len(solution_str), "note": "kept by nobody"}
"""


def ask(text: str, truth: str = "normal") -> Question:
    return Question(
        data_source="",
        solution_str=text,
        ground_truth=truth,
        extra_info={"fps": 2, "made": Path("x")},
    )


@contextlib.asynccontextmanager
async def running(path: Path, source: str, timeout_s: float = 1.0) -> AsyncIterator[PluginRunner]:
    file = path / "hostile.py"
    file.write_text(source)
    runner = PluginRunner("hostile", f"{file}:compute_score", timeout_s)
    try:
        await runner.start()
        yield runner
    finally:
        await runner.close()


async def failing(runner: PluginRunner, text: str) -> str:
    """The reason of the failure, which must name the plugin."""
    outcome = await runner.score(ask(text))
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.culprit) == (FailureKind.REWARD, "hostile")
    return outcome.reason


async def test_every_hostile_answer_is_a_failure_and_the_next_trace_is_scored(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, HOSTILE, timeout_s=10) as runner:
        for text, words in [
            ("raise", "KeyError('rubric') at"),
            ("recurse", "RecursionError"),
            ("sys.exit", "SystemExit('enough')"),
            ("bad repr", "no repr"),
            ("exit", "exit code 3"),
            ("segfault", "SIGSEGV"),
        ]:
            assert words in await failing(runner, text)
            assert await runner.score(ask("four")) == 4.0


async def test_a_sleeper_is_killed_on_time_and_replaced(tmp_path: Path) -> None:
    async with running(tmp_path, HOSTILE) as runner:
        old = await runner.score(ask("pid"))
        begin = time.perf_counter()
        assert "no answer within 1 s" in await failing(runner, "sleep")
        assert time.perf_counter() - begin < 2.5
        new = await runner.score(ask("pid"))
        assert new != old
        assert not alive(int(old))  # type: ignore[arg-type]  # a Failure would fail here


async def test_what_a_killed_function_started_dies_with_it(tmp_path: Path) -> None:
    async with running(tmp_path, HOSTILE) as runner:
        outcome = await runner.score(ask("grandchild", truth=str(tmp_path / "pid")))
        assert isinstance(outcome, Failure)
        pid = int((tmp_path / "pid").read_text())
        await until_dead(pid)


ORPHAN = """
import asyncio, os, signal, sys
from reward.runner import PluginRunner, Question

async def main(spec):
    runner = PluginRunner("hostile", spec, 60.0)
    def ask(text):
        return runner.score(
            Question(data_source="", solution_str=text, ground_truth="", extra_info={})
        )
    sys.stdout.write(f"{await ask('pid'):.0f}")
    sys.stdout.flush()
    asyncio.create_task(ask("sleep"))
    await asyncio.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1]))
"""


async def test_a_sleeper_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    spec = f"{tmp_path / 'hostile.py'}:compute_score"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ORPHAN, spec), stdout=asyncio.subprocess.PIPE, env=env
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.read(32))
    assert await parent.wait() == -signal.SIGKILL
    await until_dead(pid)


async def test_a_fresh_process_comes_only_after_a_death(tmp_path: Path) -> None:
    async with running(tmp_path, HOSTILE) as runner:
        first = await runner.score(ask("pid"))
        await runner.score(ask("raise"))
        assert await runner.score(ask("pid")) == first


async def test_printing_a_lot_disturbs_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, HOSTILE, timeout_s=10) as runner:
        assert await runner.score(ask("print")) == 5.0


async def test_extra_info_arrives_and_long_texts_too(tmp_path: Path) -> None:
    async with running(tmp_path, HOSTILE, timeout_s=10) as runner:
        assert await runner.score(ask("extra")) == 2.0
        assert await runner.score(ask("\ud800" + "x" * 1_000_000)) == 1_000_001.0


async def test_the_event_loop_keeps_turning_while_a_function_sleeps(tmp_path: Path) -> None:
    async with running(tmp_path, HOSTILE) as runner:
        turns = 0
        waiting = asyncio.create_task(runner.score(ask("sleep")))
        while not waiting.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 30


async def test_closing_in_the_middle_of_a_call_does_not_wait_for_it(tmp_path: Path) -> None:
    async with running(tmp_path, HOSTILE, timeout_s=60) as runner:
        waiting = asyncio.create_task(runner.score(ask("sleep")))
        await asyncio.sleep(0.3)
        begin = time.perf_counter()
        await runner.close()
        assert time.perf_counter() - begin < 2.0
        assert isinstance(await waiting, Failure)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def compute_score(text): ...", "wrong signature"),
        ("import os; os._exit(9)", "exit code 9"),
        ("raise RuntimeError('x' * 100_000)", "RuntimeError"),
    ],
)
async def test_a_file_that_cannot_be_loaded_is_a_config_error(
    tmp_path: Path, source: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        async with running(tmp_path, source):
            pass


async def test_a_file_broken_while_running_is_a_failure(tmp_path: Path) -> None:
    async with running(tmp_path, HOSTILE) as runner:
        (tmp_path / "hostile.py").write_text("compute_score = 3")
        await failing(runner, "exit")
        assert "not a function" in await failing(runner, "four")


@pytest.mark.parametrize(
    "value", [1, 1.0, True, np.float32(1), np.int64(1), np.bool_(True), {"score": 1}]
)
def test_numbers_are_read(value: object) -> None:
    assert read_value(value) == {"value": 1.0}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "inf"),
        (np.float64("nan"), "nan"),
        ("1.0", "'1.0' (str)"),
        (None, "NoneType"),
        ([1.0], "list"),
        (1j, "complex"),
        ({"reward": 1.0}, "without 'score'"),
        ({"score": "high"}, "'high' (str)"),
    ],
)
def test_what_is_no_finite_number_is_an_error(value: object, words: str) -> None:
    assert words in read_value(value)["error"]


async def until_dead(pid: int) -> None:
    for _ in range(100):
        if not alive(pid):
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"process {pid} is still there")


def alive(pid: int) -> bool:
    """Whether the process runs; one that waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
