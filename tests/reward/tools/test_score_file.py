"""scores.jsonl: cut anywhere, damaged, written twice."""

from pathlib import Path

import pytest

from reward.tools.score_file import Outcome, RescoredGroup, ScoreFile, read_scores
from wire.errors import DataError
from wire.types import Failure, FailureKind, Score

RIGHT = Outcome.of(Score(total=1.5, parts={"accuracy": 1.0, "format": 0.5}))
NOT_APPLICABLE = Outcome.of(
    Failure(kind=FailureKind.NOT_APPLICABLE, culprit="f", reason="none applies")
)
FAILED = Outcome.of(Failure(kind=FailureKind.REWARD, culprit="f", reason="it \ud800 broke\n"))


def judged(number: int, *now: Outcome) -> RescoredGroup:
    return RescoredGroup(
        key=(0, 3, f"grpo/\N{SNOWMAN}{number}", 0),
        purpose="train",
        sample_id=f"clip-{number}",
        label="fall",
        before=(RIGHT,) * len(now),
        now=now,
    )


GROUPS = [judged(0, RIGHT, FAILED), judged(1, NOT_APPLICABLE, RIGHT), judged(2, RIGHT)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "scores.jsonl"
    with ScoreFile(path) as scores:
        for group in GROUPS:
            scores.append(group)
    return path


def test_what_is_appended_is_read_again(path: Path):
    assert read_scores(path) == GROUPS
    with ScoreFile(path) as scores:
        assert list(scores.judged.values()) == GROUPS


def test_a_group_with_a_failed_trace_is_not_done_and_one_that_nothing_applies_to_is():
    assert [group.is_done for group in GROUPS] == [False, True, True]


def test_a_file_cut_anywhere_has_the_groups_before_and_takes_the_others_again(path: Path):
    whole = path.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in sorted({*range(0, len(whole), 41), *ends, *(at + 1 for at in ends[:-1])}):
        path.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        with ScoreFile(path) as scores:
            assert list(scores.judged.values()) == GROUPS[:kept]
            for group in GROUPS[kept:]:
                scores.append(group)
        assert path.read_bytes() == whole


def test_of_a_group_that_was_judged_again_the_last_line_counts(path: Path):
    mended = judged(0, RIGHT, RIGHT)
    with ScoreFile(path) as scores:
        scores.append(mended)
    assert read_scores(path) == [mended, *GROUPS[1:]]


@pytest.mark.parametrize("line", [b"{}", b"\x00\x00", b'{"key": [1]}', b"[]"])
def test_a_damaged_line_is_refused_and_nothing_is_cut_off(path: Path, line: bytes):
    text = line + b"\n" + path.read_bytes() + b"torn"
    path.write_bytes(text)
    with pytest.raises(DataError, match="move it away to score everything again"):
        ScoreFile(path)
    assert path.read_bytes() == text
