from pathlib import Path

import pytest

from video.quarantine import Quarantine
from wire.errors import DataError, TooManyFailures


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


def test_more_clips_than_allowed_end_the_run(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", max_clips=2)
    for video in ("a.mp4", "a.mp4#view=blank", "b.mp4#t=1,2"):
        quarantine.add(video, "s", "cut")
        quarantine.refuse_too_many()  # two clips, one of them under two views
    quarantine.add("b.mp4#t=2,3", "s", "cut")
    with pytest.raises(
        TooManyFailures, match=r"3 clips .*max_quarantine_frac allows 2.*a\.mp4: cut"
    ):
        quarantine.refuse_too_many()
    assert len(Quarantine(tmp_path / "quarantine.jsonl")) == 4


def test_none_may_be_allowed_and_all_may_be(tmp_path: Path) -> None:
    strict = Quarantine(tmp_path / "a.jsonl", max_clips=0)
    strict.refuse_too_many()
    strict.add("a.mp4", "s", "cut")
    with pytest.raises(TooManyFailures):
        strict.refuse_too_many()
    Quarantine(tmp_path / "a.jsonl").refuse_too_many()


def test_a_narrative_is_left_out_with_its_video_and_counts_as_the_same_clip(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q.jsonl", max_clips=1)
    quarantine.add("a.mp4#t=1,2", "a", "cut")
    for view in ("", "&view=dropped"):
        assert f"a.mp4#t=1,2&tokens=3f9c0a7b51de{view}" in quarantine
        assert quarantine.reason(f"a.mp4#t=1,2&tokens=3f9c0a7b51de{view}") == "cut"
    assert "a.mp4#tokens=3f9c0a7b51de" not in quarantine
    assert not quarantine.add("a.mp4#t=1,2&tokens=000000000000", "a", "cut")
    quarantine.refuse_too_many()
    assert len(quarantine) == len((tmp_path / "q.jsonl").read_text().splitlines()) == 1
    assert quarantine.add("b.mp4#tokens=000000000000", "b", "no codes"), "its video can be read"
    assert "b.mp4" not in quarantine
