"""Counts of an archive are those of its groups."""

from pathlib import Path

import pytest

from cluster.archive.summary import by_split, to_plain, written
from tests.cluster.trace_archives import make_groups, write_archive
from wire.archive.compaction import compact_archive
from wire.archive.index import summarise


@pytest.mark.parametrize("compacted", [False, True])
def test_the_counts_by_attempt_purpose_and_split(tmp_path: Path, compacted: bool):
    write_archive(tmp_path)
    if compacted:
        compact_archive(tmp_path / "archive")
    calibration, train = map(to_plain, by_split(summarise(tmp_path / "archive").counts))
    assert calibration == {
        "attempt": 0,
        "purpose": "calibration",
        "split": "cal",
        "label": "",
        "first_step": 1,
        "last_step": 2,
        "groups": 2,
        "traces": 4,
        "failed": 2,
        "tokens": 10,
        "mean_reward": 2.5,  # of clips 3 and 7: 1.5 and 3.5
    }
    assert train["groups"] == 7
    assert train["traces"] == 12
    assert train["failed"] == 7, "six traces, and the group without one"


def test_no_reward_has_no_mean(tmp_path: Path):
    write_archive(tmp_path, make_groups(0))
    (count,) = summarise(tmp_path / "archive").counts
    assert to_plain(count)["mean_reward"] is None


def test_when_the_files_were_written(tmp_path: Path):
    write_archive(tmp_path)
    files = [p for p in (tmp_path / "archive").rglob("*") if p.suffix in (".bin", ".parquet")]
    times = [path.stat().st_mtime for path in files]
    assert written(tmp_path / "archive") == (min(times), max(times))
    (tmp_path / "empty" / "traces").mkdir(parents=True)
    assert written(tmp_path / "empty") is None
