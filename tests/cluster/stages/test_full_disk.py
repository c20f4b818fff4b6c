"""Every path that a run writes on, on a real disk without room: one error, and nothing lost."""

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calibrate.predictions import Prediction, write_predictions
from cluster.metrics.metrics_log import MetricsLog
from cluster.run_dir import RunDir
from cluster.status.heartbeat import State, heartbeat, read_heartbeat
from cluster.status.run_status import read_status
from tests.cluster.session_fakes import make_config
from tests.groups import make_group
from wire.archive.archive import Archive, read_groups
from wire.errors import DiskFull
from wire.types import Failure, FailureKind, PolicyVersion, TraceGroup
from wire.whole_file import write_json

LONG = random.Random(0).randbytes(100_000).hex()
"""Does not compress away."""


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[RunDir]:
    """A run on a disk of 1 MiB, which is nearly full."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this process may not mount a disk")
    found = RunDir.open(folder / "run", make_config(), resume=False, overwrite=False)
    yield found
    found.close()
    subprocess.run(["umount", "-l", str(folder)], check=True)


def group(index: int) -> TraceGroup:
    failure = Failure(kind=FailureKind.DECODE, culprit="a.mp4", reason=f"{index}{LONG[index:]}")
    version = PolicyVersion(attempt=0, step=1)
    return make_group(group_id=f"grpo/{index:08d}", policy_version=version, failures=(failure,))


def fill(path: Path) -> None:
    """Leave no byte."""
    with (path / "filler").open("wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue


def journal(run_dir: RunDir) -> None:
    with Archive(run_dir.archive, 0) as archive:
        fill(run_dir.path)
        archive.append(group(1))


def compaction(run_dir: RunDir) -> None:
    with Archive(run_dir.archive, 0) as archive:
        archive.append(group(1))
        fill(run_dir.path)
        archive.compact(1)


def figures(run_dir: RunDir) -> None:
    with MetricsLog(run_dir.path, 0, []) as log:
        fill(run_dir.path)
        log.write("grpo", 1, {f"reward/{i}/mean": 1.0 for i in range(1000)})


def result(run_dir: RunDir) -> None:
    fill(run_dir.path)
    write_json(run_dir.path / "stages/base/done.json", {"text": LONG})


def predictions(run_dir: RunDir) -> None:
    fill(run_dir.path)
    found = Prediction(
        sample_id="a", label="x", predicted=None, confidence=0.0, probabilities=None, trace=LONG
    )
    write_predictions(run_dir.predictions("base"), [found])


@pytest.mark.parametrize("write", [journal, compaction, figures, result, predictions])
def test_no_room_is_one_error_that_names_the_disk(run_dir: RunDir, write: Callable[[RunDir], None]):
    with (
        pytest.raises(DiskFull, match=r"the disk of .*small.* is full \(0\.0 GB free\): free some"),
        heartbeat(run_dir, ("base",), "again"),
    ):
        write(run_dir)
    (run_dir.path / "filler").unlink()
    assert not list(run_dir.path.rglob("*.partial"))


def test_what_was_archived_before_stays_and_figures_go_on_after_room_was_made(run_dir: RunDir):
    with Archive(run_dir.archive, 0) as archive, MetricsLog(run_dir.path, 0, []) as log:
        archive.append(group(0))
        log.write("grpo", 1, {"kl": 0.0})
        fill(run_dir.path)
        with pytest.raises(DiskFull), heartbeat(run_dir, ("base",), "again"):
            archive.append(group(1))
        with pytest.raises(OSError, match="No space left"):
            log.write("grpo", 2, {f"reward/{i}/mean": 1.0 for i in range(1000)})
        (run_dir.path / "filler").unlink()
        archive.append(group(2))
        log.write("grpo", 2, {"kl": 0.0})
    kept = [found.group_id for found in read_groups(run_dir.archive)]
    assert kept == ["grpo/00000000", "grpo/00000002"]
    lines = (run_dir.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_tensorboard_without_room_does_not_end_the_run(run_dir: RunDir):
    with MetricsLog(run_dir.path, 0) as log:
        log.write("grpo", 1, {"kl": 0.0})
        room = run_dir.path / "metrics.jsonl"
        before = room.stat().st_size
        log.write("grpo", 2, {"kl": 0.0})
        assert room.stat().st_size > before


def test_status_of_a_run_that_a_full_disk_ended(run_dir: RunDir):
    with pytest.raises(DiskFull), heartbeat(run_dir, ("base",), "again"):
        result(run_dir)
    run_dir.close()
    status = read_status(run_dir.path)
    assert status.state in (State.FAILED, State.STOPPED)
    assert status.free_gb < 0.001
    assert read_heartbeat(run_dir.path) is not None
