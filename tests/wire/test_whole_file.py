import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wire.whole_file import replace_json, sync_to_disk, whole_file, write_json


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_has_its_name_only_after_the_block(tmp_path: Path, sync: bool):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path, sync=sync) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial == tmp_path / "a.txt.partial"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_the_old_file_and_no_partial_one(
    tmp_path: Path, error: BaseException
):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with whole_file(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_rename_that_fails_leaves_no_partial_file(tmp_path: Path):
    path = tmp_path / "folder"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"), whole_file(path) as partial:
        partial.write_text("new")
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_may_have_partial_files_of_their_own(tmp_path: Path):
    path = tmp_path / "a.txt"
    with whole_file(path, suffix=".1.part") as one, whole_file(path, suffix=".2.part") as other:
        one.write_text("1")
        other.write_text("2")
    assert path.read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_written_whole_into_a_new_folder(tmp_path: Path):
    path = tmp_path / "stages/base/done.json"
    write_json(path, {"seconds": 2.0})
    assert path.read_text() == '{\n  "seconds": 2.0\n}'
    replace_json(path, {"seconds": 3.0})
    assert json.loads(path.read_text()) == {"seconds": 3.0}
    assert list(path.parent.iterdir()) == [path]


def test_a_value_that_is_no_json_leaves_the_file_as_it_was(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, object())
    assert path.read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


def test_files_and_folders_can_be_made_durable(tmp_path: Path):
    (tmp_path / "a").touch()
    sync_to_disk(tmp_path / "a")
    sync_to_disk(tmp_path)


@pytest.mark.parametrize("write", [write_json, replace_json])
def test_json_has_null_for_what_is_no_number(tmp_path: Path, write: Callable[..., None]):
    write(tmp_path / "a.json", {"ece": float("nan"), "rows": [float("inf"), 0.5]})
    assert "NaN" not in (tmp_path / "a.json").read_text()
    assert json.loads((tmp_path / "a.json").read_text()) == {"ece": None, "rows": [None, 0.5]}
