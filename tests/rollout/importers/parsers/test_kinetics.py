import pytest

from rollout.importers.parsers.kinetics import is_kinetics, parse
from wire.errors import DataError
from wire.types import Split

ROW = {
    "label": "riding a bike",
    "youtube_id": "abc",
    "time_start": "12",
    "time_end": "22",
    "split": "train",
}


def test_rows_are_known_by_their_columns():
    assert is_kinetics(ROW)
    assert is_kinetics({name: ROW[name] for name in ("youtube_id", "time_start", "time_end")})
    assert not is_kinetics({"youtube_id": "abc", "label": "run"})


def test_a_clip_is_looked_for_cut_and_whole_in_the_folder_of_its_class():
    record = parse("line 2", ROW)
    folder = "train/riding a bike/"
    assert record.videos == (f"{folder}abc_000012_000022", f"{folder}abc")
    assert record.untrimmed == (f"{folder}abc",)
    assert (record.id, record.label) == ("abc_000012_000022", "riding a bike")
    assert record.split is Split.TRAIN


def test_a_test_list_may_have_no_label():
    row = {name: value for name, value in ROW.items() if name not in ("label", "split")}
    assert parse("line 2", row).videos == ("abc_000012_000022", "abc")


def test_a_row_without_an_id_is_named():
    with pytest.raises(DataError, match="line 2"):
        parse("line 2", {**ROW, "youtube_id": None})
