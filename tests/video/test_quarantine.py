from pathlib import Path

import pytest

from video.quarantine import Quarantine
from wire.errors import DataError


def test_a_clip_is_written_once(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "run" / "quarantine.jsonl")
    assert quarantine.add("a.mp4", "s1", "cut")
    assert not quarantine.add("a.mp4", "s2", "cut again")
    assert quarantine.add("b.mp4", "s3", "empty")
    assert "a.mp4" in quarantine
    assert "c.mp4" not in quarantine
    assert len((tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()) == 2


def test_a_resumed_run_knows_the_clips(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    Quarantine(path).add("clip with \n break.mp4", "s1", "cut")
    again = Quarantine(path)
    assert "clip with \n break.mp4" in again
    assert again.reason("clip with \n break.mp4") == "cut"
    assert not again.add("clip with \n break.mp4", "s1", "cut")


def test_a_line_torn_by_a_crash_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    Quarantine(path).add("a.mp4", "s1", "cut")
    with path.open("a") as file:
        file.write('{"video": "b.m')
    again = Quarantine(path)
    assert len(again) == 1
    again.add("c.mp4", "s3", "cut")
    assert len(Quarantine(path)) == 2


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    path.write_text("hello\n")
    with pytest.raises(DataError, match="line 1"):
        Quarantine(path)
