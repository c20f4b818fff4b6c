import gc
import os
from pathlib import Path

import pytest

from cluster.stages.spilled_rows import SpilledRows, longest_of
from learner.shared_prefix.rows import Response, Row, supervised_row
from wire.token_arrays import Logprobs, TokenIds
from wire.types import Prompt


def row(number: int, length: int = 4096) -> Row:
    prompt = Prompt(
        token_ids=(7,) * length + (number,),
        clip_key=f"key-{number}",
        fingerprint="f" * 64,
        version="2",
    )
    return supervised_row(prompt, f"/clips/ü {number}.mp4", (number, 5))


def test_rows_are_read_as_they_were_written_in_any_order(tmp_path: Path) -> None:
    rows = [row(number, length=10 + number % 4) for number in range(50)]
    codes = tuple(Response(token_ids=TokenIds((number, 3))) for number in range(3))
    rows.append(Row(prompt=rows[0].prompt, video="b.mp4", responses=codes))
    with SpilledRows(tmp_path) as spilled:
        spilled.extend(rows)
        assert len(spilled) == 51
        assert [spilled[number] for number in reversed(range(51))] == rows[::-1]
        assert spilled[3:6] == rows[3:6]
        with pytest.raises(IndexError):
            spilled[51]
        spilled.append(rows[1])
        assert spilled[51] == rows[1], "written after others were read"


def test_the_longest_row_is_known_without_reading(tmp_path: Path) -> None:
    rows = [row(0, 10), row(1, 30), row(2, 30), row(3, 5)]
    with SpilledRows(tmp_path) as spilled:
        spilled.extend(rows)
        assert longest_of(spilled) is rows[1]
    assert longest_of(rows) is rows[1]


def test_video_placeholders_take_no_room_and_the_file_has_no_name(tmp_path: Path) -> None:
    with SpilledRows(tmp_path) as spilled:
        spilled.extend(row(number) for number in range(100))
        assert not list(tmp_path.iterdir())
        assert os.fstat(spilled._file.fileno()).st_size < 100 * 400
    gc.collect()


def test_a_row_with_more_than_its_tokens_is_refused(tmp_path: Path) -> None:
    one = row(0)
    scored = Response(token_ids=TokenIds((1,)), rollout_logprobs=Logprobs((-0.5,)), advantage=0.5)
    with SpilledRows(tmp_path) as spilled, pytest.raises(AssertionError, match="supervised"):
        spilled.append(Row(prompt=one.prompt, video="a", responses=(scored,)))
