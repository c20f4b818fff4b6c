"""The work folder of a fit: kept for the same order, and for one process at a time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from calibrate.traces import GroupFacts, TraceSet
from cluster.fitting.fit_work import KeptScores, fit_work, work_folder
from tests.cluster.session_fakes import make_samples
from wire.errors import DataError, DiskFull, WorkerDied
from wire.types import PolicyVersion


def broken_off(out: Path, order: str, left: str, error: BaseException) -> None:
    """A fit that leaves a file, and then breaks off."""
    with fit_work(out, order) as work:
        (work / left).write_text("step 3")
        raise error


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (KeyboardInterrupt(), True),
        (WorkerDied("a rank"), True),
        (DiskFull("/"), True),
        (DataError("a label"), False),
    ],
)
def test_what_a_fit_leaves_stays_unless_its_order_is_refused(
    tmp_path: Path, error: BaseException, is_kept: bool
):
    out = tmp_path / "out"
    with pytest.raises(type(error)):
        broken_off(out, "a", "checkpoint", error)
    assert work_folder(out).exists() is is_kept
    with fit_work(out, "a") as work:
        assert (work / "checkpoint").exists() is is_kept
    assert not list(tmp_path.iterdir()), "a fit that ends well leaves nothing"


def test_a_folder_of_another_order_or_of_before_there_were_any_is_emptied(tmp_path: Path):
    work = work_folder(tmp_path / "out")
    (work / "checkpoints" / "verdict").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        broken_off(tmp_path / "out", "a", "features.npy", KeyboardInterrupt())
    assert not (work / "checkpoints").exists(), "nobody knew whose it was"
    assert (work / "features.npy").exists()
    with fit_work(tmp_path / "out", "b"):
        assert not (work / "features.npy").exists()


def test_a_second_process_at_the_same_place_is_refused_and_harms_nothing(tmp_path: Path):
    code = (
        "import sys, pathlib; from cluster.fitting.fit_work import fit_work\n"
        "from wire.errors import ConfigError\n"
        "try:\n"
        "    with fit_work(pathlib.Path(sys.argv[1]), 'b'): pass\n"
        "except ConfigError as error:\n"
        "    sys.exit(str(error))"
    )
    out = tmp_path / "out"
    with fit_work(out, "a") as work:
        (work / "checkpoint").write_text("step 3")
        second = subprocess.run(
            [sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=False
        )
        assert second.returncode == 1
        assert f"another process fits {out}" in second.stderr
        assert (work / "checkpoint").read_text() == "step 3"


class CountingReader:
    """Reads a policy, and counts how often."""

    def __init__(self) -> None:
        self.reads = 0

    async def label_logprobs(self, traces: TraceSet) -> np.ndarray:
        self.reads += 1
        return np.full((len(traces), 2), -0.5 - len(traces))

    async def features(self, traces: TraceSet) -> np.ndarray:
        self.reads += 1
        return np.full((traces.num_traces, 3), len(traces), np.float32)


def traces_of(first: int, last: int) -> TraceSet:
    version = PolicyVersion(attempt=0, step=1)
    samples = make_samples(val=8)[first:last]
    facts = [
        GroupFacts(
            sample=sample, versions=frozenset({version}), answers=("a",), num_parsed=1, num_tokens=9
        )
        for sample in samples
    ]
    return TraceSet(facts, [])


async def test_scores_and_features_of_a_set_of_traces_are_read_once(tmp_path: Path):
    counting = CountingReader()
    val, held_out = traces_of(0, 3), traces_of(3, 8)
    for _ in range(2):  # the second time as another process
        reader = KeptScores(counting, tmp_path)
        assert (await reader.label_logprobs(val)).tolist() == [[-3.5, -3.5]] * 3
        assert (await reader.features(val)).tolist() == [[3.0] * 3] * 3
        assert (await reader.features(held_out)).tolist() == [[5.0] * 3] * 5
    assert counting.reads == 3
