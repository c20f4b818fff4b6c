import gzip
from pathlib import Path

import pytest

from rollout.importers.json_file import json_rows, load, read_text
from wire.errors import DataError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.json"


@pytest.mark.parametrize(
    "text", ['[{"id": 1}, {"id": 2}]', '{"id": 1}\n\n{"id": 2}\n', '\ufeff[{"id": 1}, {"id": 2}]']
)
def test_records_come_from_a_list_or_from_lines(path: Path, text: str):
    path.write_text(text, encoding="utf-8")
    assert json_rows(path) == [
        ("rows.json record 1", {"id": 1}),
        ("rows.json record 2", {"id": 2}),
    ]


def test_one_object_is_one_record(path: Path):
    path.write_text('{"id": 1}')
    assert json_rows(path) == [("rows.json record 1", {"id": 1})]


@pytest.mark.parametrize("text", ["3", '["a"]', '[{"id": 1}, null]'])
def test_what_is_no_list_of_objects_is_refused(path: Path, text: str):
    path.write_text(text)
    with pytest.raises(DataError, match="expected a JSON list of objects"):
        json_rows(path)


def test_a_bad_line_is_named(path: Path):
    path.write_text('{"id": 1}\n{"id": \n')
    with pytest.raises(DataError, match="line 2"):
        load(path)


def test_a_value_nested_without_end_is_refused(path: Path):
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("a.mp4", b"\xff\xfe\x00", "folder above its class"),
        ("rows.json", gzip.compress(b"[]", mtime=0), "gunzip"),
        ("rows.json", "[é]".encode("latin-1"), "save it as UTF-8"),
    ],
)
def test_a_file_that_is_no_text_has_a_remedy(
    tmp_path: Path, name: str, content: bytes, remedy: str
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=remedy):
        read_text(tmp_path / name)


def test_a_missing_file_is_named(path: Path):
    with pytest.raises(DataError, match=r"cannot read .*rows\.json"):
        read_text(path)
