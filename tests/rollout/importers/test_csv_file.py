from pathlib import Path

import pytest

from rollout.importers.csv_file import csv_rows
from wire.errors import DataError


def rows(tmp_path: Path, text: str, *headers: str) -> list[dict]:
    path = tmp_path / "list.csv"
    path.write_text(text)
    return [row for _, row in csv_rows(path, headers)]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_the_first_line_says_the_delimiter(tmp_path: Path, mark: str):
    lines = (f"video{mark}label", f"a.mp4{mark}run")
    assert rows(tmp_path, "\n".join(lines)) == [{"video": "a.mp4", "label": "run"}]


def test_a_list_without_a_header_has_numbered_columns(tmp_path: Path):
    assert rows(tmp_path, "a.mp4,run\nb.mp4,walk\n") == [
        {"0": "a.mp4", "1": "run"},
        {"0": "b.mp4", "1": "walk"},
    ]


def test_a_path_with_spaces_ends_at_its_suffix(tmp_path: Path):
    assert rows(tmp_path, "my clip.mp4 play the guitar\n") == [
        {"0": "my clip.mp4", "1": "play the guitar"}
    ]


def test_a_further_word_may_mark_a_header(tmp_path: Path):
    text = "clipname,kind\na,run\n"
    assert rows(tmp_path, text) == [{"0": "clipname", "1": "kind"}, {"0": "a", "1": "run"}]
    assert rows(tmp_path, text, "kind") == [{"clipname": "a", "kind": "run"}]


def test_an_empty_cell_is_no_value_and_an_empty_line_no_row(tmp_path: Path):
    text = "video,label,split\na.mp4, ,train\n\n"
    assert rows(tmp_path, text) == [{"video": "a.mp4", "label": None, "split": "train"}]
    assert rows(tmp_path, "\n") == []


def test_a_line_of_another_length_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="line 3 has 3 cells, expected 2"):
        rows(tmp_path, "video,label\na.mp4,run\nb.mp4,walk,fast\n")


@pytest.mark.parametrize("header", ["video,video", "video,label,"])
def test_a_header_with_an_empty_or_double_name_is_refused(tmp_path: Path, header: str):
    with pytest.raises(DataError, match="name each once"):
        rows(tmp_path, f"{header}\n1,2,3\n")


def test_an_open_quote_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="quotes closed"):
        rows(tmp_path, 'video,label\na.mp4,"run\n')
