"""Processes of loaded classifiers, with a scripted pipeline: answers, cancellation, deaths."""

import asyncio
import math
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from calibrate.decision import Evidence
from calibrate.service.protocols import ClipToClassify
from cluster.classify.machine import Machine
from cluster.serving.backend import ProcessBackend
from cluster.serving.machine import ServingMachine
from cluster.serving.worker_client import WorkerClient
from wire.errors import ConfigError, DeadlineExceeded, GenerationError, WorkerDied
from wire.types import Failure

ROOT = Path(__file__).parents[3]
COMMAND = (sys.executable, str(Path(__file__).with_name("scripted_worker.py")))


def backend(tmp_path: Path, **how: Any) -> ProcessBackend:
    return ProcessBackend(
        ServingMachine(machine=Machine()), tmp_path / "logs", command=COMMAND, **how
    )


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[WorkerClient]:
    client = await backend(tmp_path).open(tmp_path / "7")
    try:
        yield client
    finally:
        await client.close()
    assert not psutil.pid_exists(client.pid)


def clip(tmp_path: Path, content: str = "clip", **more: Any) -> ClipToClassify:
    path = tmp_path / f"{abs(hash(content))}.mp4"
    path.write_text(content)
    return ClipToClassify(id=content, path=path, **more)


async def test_answers_come_back_to_the_bit_each_to_its_own_clip(tmp_path: Path) -> None:
    async with opened(tmp_path) as client:
        evidence = await client.evidence(clip(tmp_path, window=(0.5, 2.0)), "blank")
        assert isinstance(evidence, Evidence)
        assert evidence.trace.startswith(f"7 clip {clip(tmp_path).path}#t=0.5,2 blank")
        row = evidence.logprobs["verdict"]
        assert (row[0], row[2]) == (-0.1, -math.inf)
        assert math.isnan(row[1])
        assert evidence.trace_logprobs == (-0.1, -1e-30)
        assert (evidence.votes, evidence.frames) == ({"normal": 2}, (0, 4))
        clips = [clip(tmp_path, f"slow:{0.002 * (k % 5)} {k}".split(" ")[0]) for k in range(50)]
        answers = await asyncio.gather(*[client.evidence(one) for one in clips])
        for one, answer in zip(clips, answers, strict=True):
            assert isinstance(answer, Evidence)
            assert f"7 {one.id} " in answer.trace


async def test_failures_and_bugs_are_answers(tmp_path: Path) -> None:
    async with opened(tmp_path) as client:
        failure = await client.evidence(clip(tmp_path, "fail:no moov atom"))
        assert isinstance(failure, Failure)
        assert (failure.kind, failure.reason) == ("decode", "no moov atom")
        empty = await client.evidence(clip(tmp_path, window=(2.0, 2.0)))
        assert isinstance(empty, Failure)
        assert "holds no frame" in empty.reason
        bug = await client.evidence(clip(tmp_path, "bug:"))
        assert isinstance(bug, Failure)
        assert "a bug" in bug.reason
        assert isinstance(await client.evidence(clip(tmp_path)), Evidence)


async def test_a_call_that_is_cancelled_ends_in_the_process_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as client:
        call = asyncio.create_task(client.evidence(clip(tmp_path, "slow:30")))
        await asyncio.sleep(0.1)
        running = await client.evidence(clip(tmp_path))
        assert isinstance(running, Evidence)
        assert running.trace.endswith(" 2"), "two run"
        call.cancel()
        await asyncio.wait({call})
        left = await client.evidence(clip(tmp_path))
        assert isinstance(left, Evidence)
        assert left.trace.endswith(" 1")


@pytest.mark.parametrize("death", ["kill -9", "kill:", "engine:"])
async def test_every_call_of_a_process_that_died_ends(tmp_path: Path, death: str) -> None:
    async with opened(tmp_path) as client:
        calls = [asyncio.create_task(client.evidence(clip(tmp_path, "slow:30"))) for _ in range(5)]
        await asyncio.sleep(0.1)
        if death == "kill -9":
            os.kill(client.pid, signal.SIGKILL)
        else:
            calls.append(asyncio.create_task(client.evidence(clip(tmp_path, death))))
        async with asyncio.timeout(5):
            errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {WorkerDied}
        assert "the process of classifier 7 ended" in str(errors[0])
        with pytest.raises(WorkerDied):
            await client.evidence(clip(tmp_path))


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("refused", ConfigError, "no such model"),
        ("broken", GenerationError, "vLLM did not start: OutOfMemoryError: no room"),
        ("exits", WorkerDied, "ImportError: no module vllm; its log is .*classifier-exits.log"),
    ],
)
async def test_a_start_that_fails_says_why_and_leaves_no_process(
    tmp_path: Path, name: str, error: Any, words: str
) -> None:
    with pytest.raises(error, match=words):
        await backend(tmp_path).open(tmp_path / name)
    assert not _children()


async def test_a_start_that_hangs_ends(tmp_path: Path) -> None:
    with pytest.raises(DeadlineExceeded, match="not ready after 2 s"):
        await backend(tmp_path, start_timeout_s=2).open(tmp_path / "hangs")
    assert not _children()


def _children() -> list[Any]:
    return [
        one for one in psutil.Process().children() if "scripted_worker" in " ".join(one.cmdline())
    ]


async def test_a_service_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SERVICE, str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert service.stdout is not None
    worker = psutil.Process(int(await service.stdout.readline()))
    assert worker.is_running()
    os.kill(service.pid, signal.SIGKILL)
    await service.wait()
    async with asyncio.timeout(20):
        while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.05)


_SERVICE = """
import asyncio, sys
from pathlib import Path
from tests.cluster.serving.test_worker_client import backend

async def main():
    client = await backend(Path(sys.argv[1])).open(Path(sys.argv[1]) / "7")
    print(client.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
