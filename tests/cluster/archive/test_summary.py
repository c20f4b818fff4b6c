"""Counts of an archive are those of its groups."""

from pathlib import Path

from cluster.archive.summary import files_of, summarise_parts
from tests.cluster.trace_archives import write_archive


def test_the_counts_by_attempt_purpose_and_split(tmp_path: Path):
    write_archive(tmp_path)
    calibration, train = [part.to_plain() for part in summarise_parts(tmp_path / "archive")]
    assert calibration == {
        "attempt": 0,
        "purpose": "calibration",
        "split": "cal",
        "versions": 2,
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


def test_the_files_with_their_journal(tmp_path: Path):
    write_archive(tmp_path)
    files = files_of(tmp_path / "archive")
    assert files.num_files == 3
    paths = [p for p in (tmp_path / "archive").rglob("*") if p.is_file()]
    assert files.num_bytes == sum(path.stat().st_size for path in paths)
