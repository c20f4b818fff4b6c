from dataclasses import replace
from pathlib import Path

import pytest

from rollout.rationales.rationale import Dropped, Rationale
from rollout.rationales.rationale_file import rationale_file, read_rationales, write_rationales
from wire.errors import DataError

ONE = Rationale(
    id="train-1",
    video="clips/train-1.mp4",
    label="fall",
    text="He slips \u2014 \u20acuro.\u2028Then\x85lies.\nClassification: fall",
    answer="fall",
    kept=True,
    reason="",
    group_id="why/rationale/train-1",
    index=0,
)
OTHER = replace(ONE, index=1, answer=None, kept=False, reason=Dropped.PARSE.value)


def test_rationales_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = rationale_file(tmp_path, "why")
    write_rationales(path, iter([ONE, OTHER]))
    assert path == tmp_path / "stages" / "why" / "rationales.jsonl"
    assert read_rationales(tmp_path, "why") == [ONE, OTHER]


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = rationale_file(tmp_path, "why")
    with pytest.raises(ZeroDivisionError):
        write_rationales(path, (replace(ONE, index=1 // (1 - index)) for index in range(2)))
    assert not path.exists()
    assert not list(path.parent.iterdir())


def test_rationales_that_are_not_there_are_told_by_their_stage(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rationales of stage why .* run that stage first"):
        read_rationales(tmp_path, "why")


def test_a_damaged_line_is_told_with_the_file(tmp_path: Path) -> None:
    path = rationale_file(tmp_path, "why")
    write_rationales(path, [ONE])
    path.write_text(path.read_text() + '{"id": "train-2"}\n')
    with pytest.raises(DataError, match=r"rationales\.jsonl holds a line that is no rationale"):
        read_rationales(tmp_path, "why")
