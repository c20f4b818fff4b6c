import json
import time
from pathlib import Path

import pytest

from video.semantic_tokens.codes_file import CodesFile, write_codes
from wire.errors import DataError

CLIPS = [("a", (1, 1, 2)), ("b", (3,)), ("a", (1, 1, 2))]


def test_codes_are_read_as_they_were_written_each_clip_once(tmp_path: Path):
    path = tmp_path / "new" / "codes.jsonl"
    assert write_codes(path, "0f", 8, CLIPS) == 2
    codes = CodesFile.read(path, version="0f")
    assert (codes.version, codes.num_codes) == ("0f", 8)
    assert dict(codes.clips) == {"a": (1, 1, 2), "b": (3,)}
    assert codes.codes("b") == (3,)


def test_a_clip_without_codes_and_another_tokenizers_file_are_refused(tmp_path: Path):
    path = tmp_path / "codes.jsonl"
    write_codes(path, "0f", 8, CLIPS)
    with pytest.raises(DataError, match=r"the clip c has no codes in .*, which holds 2 clips"):
        CodesFile.read(path).codes("c")
    with pytest.raises(DataError, match="has codes of the tokenizer 0f, expected ab"):
        CodesFile.read(path, version="ab")


def test_a_file_that_is_cut_missing_or_something_else_is_refused(tmp_path: Path):
    path = tmp_path / "codes.jsonl"
    with pytest.raises(DataError, match="cannot read the codes of the clips"):
        CodesFile.read(path)
    write_codes(path, "0f", 8, CLIPS)
    lines = path.read_text().splitlines()
    for cut in (lines[:-1], lines[:1], [*lines[:1], *lines[2:]], ["{}"], ["no json"]):
        path.write_text("\n".join(cut))
        with pytest.raises(DataError, match="run the semantic_tokens stage again"):
            CodesFile.read(path)


def test_a_file_that_could_not_be_written_whole_is_absent(tmp_path: Path):
    def clips():
        yield "a", (1,)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_codes(tmp_path / "codes.jsonl", "0f", 8, clips())
    assert not list(tmp_path.iterdir())


def test_fifty_thousand_clips_take_seconds_and_megabytes(tmp_path: Path):
    path = tmp_path / "codes.jsonl"
    clips = ((f"{n:040d}", [n % 128] * 16) for n in range(50_000))
    start = time.perf_counter()
    write_codes(path, "0f", 128, clips)
    assert len(CodesFile.read(path).clips) == 50_000
    assert time.perf_counter() - start < 10
    assert path.stat().st_size < 8e6
    assert json.loads(path.read_text().splitlines()[-1]) == {"clips": 50_000}
