import pytest

from rollout.importers.content import Content
from rollout.importers.formats import FORMATS, recognise
from rollout.importers.rows import Row
from wire.errors import ConfigError

ROWS: dict[str, Row] = {
    "table": {"path": "a.mp4", "label": "x", "fps": 3},
    "list": {"0": "a.mp4", "1": "x"},
    "kinetics": {"label": "x", "youtube_id": "y", "time_start": 0, "time_end": 1, "split": "train"},
    "ssv2": {"id": "7", "label": "x", "template": "x", "placeholders": []},
    "swift": {"messages": [], "videos": [], "solution": "x"},
    "verl": {"data_source": "d", "prompt": [], "reward_model": {}, "videos": [], "extra_info": {}},
    "easyr1": {"problem": "p", "answer": "x", "videos": []},
    "video-r1": {"problem": "p", "options": [], "solution": "x", "path": "a.mp4"},
    "deepintuit": {"item_id": "i", "conversations": [], "policy_title": "x"},
    "rbft": {"id": "i", "video": "a.mp4", "ground_truth": "x", "conversations": []},
}


def content(row: Row) -> Content:
    return Content(name="a.json", base="/", rows=(("a.json record 1", row),))


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_recognised_as_its_own_format_and_no_other(name: str) -> None:
    assert recognise(content(ROWS[name])) == name


def test_every_format_has_a_row_here() -> None:
    assert set(FORMATS) == {*ROWS, "folder"}


def test_lines_of_numbers_and_names_are_something_something() -> None:
    assert recognise(content({"0": "78687", "1": "Holding something"})) == "ssv2"


def test_a_row_of_two_formats_is_refused_with_both_names() -> None:
    both = {**ROWS["easyr1"], **ROWS["video-r1"]}
    with pytest.raises(ConfigError, match=r"a\.json can be easyr1 \(EasyR1\) or video-r1 .*--form"):
        recognise(content(both))


def test_a_row_of_no_format_is_refused_with_its_columns_and_all_formats() -> None:
    with pytest.raises(ConfigError, match=r"has columns x, y; .*--columns .*folder, table, list"):
        recognise(content({"x": 1, "y": 2}))
