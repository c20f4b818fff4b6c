from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.groups import make_group, make_trace
from wire.archive import parquet_files as module
from wire.archive.parquet_files import (
    FileName,
    footer_metadata,
    free_path,
    is_current,
    name_of,
    parquet_files,
    row_groups,
    write_parquet,
)
from wire.archive.trace_rows import SCHEMA, rows_of
from wire.errors import ArchiveError


def rows(*names: str, traces: int = 2, tokens: int = 3) -> pa.Table:
    made = [make_trace(tokens=range(tokens)) for _ in range(traces)]
    return pa.concat_tables([rows_of(make_group(*made, group_id=name)) for name in names])


def sizes(path: Path) -> list[int]:
    return [table.num_rows for table in row_groups(path, ["group_id"])]


def test_a_name_says_attempt_step_and_part(tmp_path: Path) -> None:
    for name in (FileName(2, 40), FileName(1002, 1234567, 3)):
        assert name_of(tmp_path / str(name)) == name
    with pytest.raises(ArchiveError, match="not a file of the trace archive"):
        name_of(tmp_path / "mine.parquet")


def test_files_come_in_the_order_of_writing_and_a_free_name_is_the_next(tmp_path: Path) -> None:
    names = [FileName(0, 9), FileName(0, 9, 1), FileName(0, 9, 2), FileName(0, 10), FileName(10, 1)]
    (tmp_path / "traces").mkdir()
    for name in reversed(names):
        (tmp_path / "traces" / str(name)).touch()
    assert [name_of(path) for path in parquet_files(tmp_path)] == names
    assert name_of(free_path(tmp_path, 0, 9)) == FileName(0, 9, 3)
    assert name_of(free_path(tmp_path, 1, 9)) == FileName(1, 9)


@pytest.mark.parametrize(("most", "expected"), [(5, [4, 4, 2]), (6, [6, 4]), (1, [2] * 5)])
def test_row_groups_have_a_bounded_number_of_rows_and_whole_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, expected: list[int]
) -> None:
    monkeypatch.setattr(module, "_ROWS", most)
    path = tmp_path / "attempt=000-step=000001.parquet"
    one, other = rows("a", "b", "c", "d"), rows("e")
    write_parquet(path, [one, other])
    assert sizes(path) == expected
    table = pa.concat_tables(row_groups(path, SCHEMA.names))
    assert table.equals(pa.concat_tables([one, other]))


def test_row_groups_have_a_bounded_number_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long traces would else make row groups that no memory holds."""
    monkeypatch.setattr(module, "_BYTES", 2**20)
    path = tmp_path / "attempt=000-step=000001.parquet"
    write_parquet(path, [rows(str(number), tokens=40_000) for number in range(4)])
    assert sizes(path) == [2, 2, 2, 2]
    write_parquet(path, [rows(str(number), tokens=20_000) for number in range(4)])
    assert sizes(path) == [6, 2]


def test_encodings_fit_the_columns_and_pages_have_checksums_and_an_index(tmp_path: Path) -> None:
    path = tmp_path / "attempt=000-step=000001.parquet"
    write_parquet(path, [rows("a", "b")])
    columns = pq.ParquetFile(path).metadata.row_group(0)
    by_name = {
        columns.column(number).path_in_schema: columns.column(number)
        for number in range(columns.num_columns)
    }
    assert {column.compression for column in by_name.values()} == {"ZSTD"}
    assert all(column.has_column_index or "list" in name for name, column in by_name.items())
    assert by_name["logprobs.list.element"].encodings[-1] == "BYTE_STREAM_SPLIT"
    ids = ("token_ids.list.element", "prompt_token_ids.list.element", "text")
    assert not any("RLE_DICTIONARY" in by_name[name].encodings for name in ids)
    assert "RLE_DICTIONARY" in by_name["label"].encodings
    assert "RLE_DICTIONARY" in by_name["reward_parts.list.element.key"].encodings


def test_metadata_of_a_caller_stand_beside_the_version(tmp_path: Path) -> None:
    path = tmp_path / "attempt=000-step=000001.parquet"
    write_parquet(path, [rows("a")], {b"made by": b"a test"})
    assert footer_metadata(path)[b"made by"] == b"a test"
    assert is_current(path)
    path.write_bytes(b"PAR1 no more PAR1")
    for call in (footer_metadata, is_current):
        with pytest.raises(ArchiveError, match="damaged or no Parquet file"):
            call(path)
