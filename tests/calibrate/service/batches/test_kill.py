"""kill -9 of the whole service while batches run: a real process, real HTTP."""

import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from calibrate.client.calls import Clip, OnServer, batch_requests
from calibrate.client.client import Client
from calibrate.client.results import Batch
from tests.architecture.product import ROOT

_ADDRESS = re.compile(r"(http://\S+)/#token=(\S+)")
_GOALS = (15, 60, 110, 190)


@contextmanager
def killable(folder: Path) -> Iterator[tuple[Client, subprocess.Popen[str]]]:
    """The service, and a client of it; killed at the end if it still runs."""
    command = [sys.executable, "-m", "tests.calibrate.service.scripted_service", str(folder)]
    command += ["--delay-s", "0.02", "--places", "4"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            match = _ADDRESS.search(process.stdout.readline())
            assert match is not None
            url, token = match.groups()
            while httpx.get(f"{url}/v1/health/ready", trust_env=False).status_code != 200:
                time.sleep(0.02)
            with Client(url, token) as client:
                yield client, process
        finally:
            process.kill()


def done(batches: list[Batch]) -> int:
    return sum(one.completed + one.failed for one in batches)


@pytest.mark.slow
def test_kills_of_the_service_lose_no_line_of_a_batch_and_decide_none_twice(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    clips = [Clip(video=OnServer(path=str(root / f"{n}.mp4")), id=str(n)) for n in range(240)]
    for number, clip in enumerate(clips):
        bad = number % 20 == 19
        Path(clip.video.path).write_text(f"fail: {number}" if bad else f"clip {number}")
    ids: list[str] = []
    for goal in _GOALS:
        with killable(tmp_path) as (client, _):
            if not ids:
                for part in (clips[:160], clips[160:]):
                    ids.append(client.create_batch(batch_requests(part)).id)
            while done([client.batch(name) for name in ids]) < goal:
                time.sleep(0.01)
    with killable(tmp_path) as (client, process):
        batches = [client.wait_for_batch(name, poll_s=0.05) for name in ids]
        rows = [row for batch in batches for row in client.batch_rows(batch)]
        process.terminate()
        assert process.wait(30) == 0
    assert [(one.status, one.completed, one.failed) for one in batches] == [
        ("completed", 152, 8),
        ("completed", 76, 4),
    ]
    assert sorted(int(row["custom_id"]) for row in rows) == list(range(240))
    with sqlite3.connect(tmp_path / "state/service.sqlite") as connection:
        decided = [row[0] for row in connection.execute("SELECT sample_id FROM decisions")]
    assert sorted(decided) == sorted(str(n) for n in range(240) if n % 20 != 19)
