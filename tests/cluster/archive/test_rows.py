"""Rows with chosen columns and a filter, a page at a time."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.archive.rows import named_columns, page, plain_rows, scan
from cluster.archive.where import EVERY_ROW, parse_where
from tests.cluster.trace_archives import make_groups, write_archive
from wire.errors import ConfigError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_archive(tmp_path)
    return tmp_path / "archive"


def test_rows_hold_what_was_written_in_parquet_and_journal(archive: Path):
    table = pa.concat_tables(scan(archive, ["group_id", "reward", "num_tokens"], EVERY_ROW))
    expected = [
        (group.group_id, trace and trace.reward, trace and len(trace.completion.token_ids))
        for group in make_groups()
        for trace in (group.traces or (None,))
    ]
    assert [tuple(row.values()) for row in table.to_pylist()] == expected


def test_a_filter_may_read_columns_that_are_not_shown(archive: Path):
    where = parse_where(["label=redo", "num_tokens>2", "reward>=2"])
    tables = list(scan(archive, ["sample_id"], where))
    assert [row for table in tables for row in table["sample_id"].to_pylist()] == [
        "clip-5",
        "clip-7",
    ]
    assert all(table.column_names == ["sample_id"] for table in tables)


def test_pages_follow_each_other_and_read_no_further_than_needed():
    parts = [pa.table({"n": list(range(start, start + 3))}) for start in (0, 3, 6)]

    def numbers(offset: int, limit: int) -> list[int]:
        return [n for t in page(iter(parts), offset, limit) for n in t["n"].to_pylist()]

    assert [numbers(start, 4) for start in (0, 4, 8, 12)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8], []]
    rest = iter(parts)
    list(page(rest, 0, 3))
    assert len(list(rest)) == 2


def test_a_map_becomes_an_object(archive: Path):
    (table,) = page(scan(archive, ["reward_parts"], parse_where(["reward=1"])), 0, 1)
    assert plain_rows(table) == [{"reward_parts": {"accuracy": 1.0, "format": 1.0}}]


def test_columns_by_name():
    assert named_columns("label, num_tokens") == ["label", "num_tokens"]
    for text, advice in (("labl", "did you mean 'label'"), (",", "must name"), ("a", "no column")):
        with pytest.raises(ConfigError, match=advice):
            named_columns(text)
    with pytest.raises(ConfigError, match="each once"):
        named_columns("label,label")


def test_values_that_only_a_query_gives_are_json_too():
    table = pa.table(
        {
            "total": pa.array([Decimal(7), None], pa.decimal128(38, 0)),
            "share": pa.array([Decimal("0.25"), None], pa.decimal128(4, 2)),
            "day": [date(2026, 11, 30), None],
            "counts": pa.array([[Decimal(1)], None], pa.list_(pa.decimal128(38, 0))),
            "raw": [b"\x01", None],
        }
    )
    first, second = plain_rows(table)
    assert first == {"total": 7, "share": 0.25, "day": "2026-11-30", "counts": [1], "raw": "01"}
    assert set(second.values()) == {None}
