"""Rows with chosen columns and a filter, a page at a time."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.archive.rows import (
    count_rows,
    first_rows,
    named_columns,
    page,
    plain_rows,
    scan,
)
from cluster.archive.where import EVERY_ROW, parse_where
from tests.cluster.trace_archives import make_groups, write_archive
from wire.archive.compaction import compact_archive
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

    def numbers(offset: int) -> list[int]:
        return [n for t in first_rows(iter(parts), 4, offset) for n in t["n"].to_pylist()]

    assert [numbers(start) for start in (0, 4, 8, 12)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8], []]
    rest = iter(parts)
    list(first_rows(rest, 3))
    assert len(list(rest)) == 2


@pytest.mark.parametrize("compacted", [False, True])
def test_a_page_by_the_index_and_one_by_the_rows_are_the_same(archive: Path, compacted: bool):
    if compacted:
        compact_archive(archive)
    where = parse_where(["reward>=0", "num_tokens>2"])
    for offset in (0, 3, 7, 8, 100):
        by_index = page(archive, ["group_id", "reward"], where, offset=offset, limit=3)
        by_rows = page(archive, ["group_id", "reward", "text"], where, offset=offset, limit=3)
        assert by_index.to_pylist() == by_rows.drop_columns("text").to_pylist()
        assert by_index.num_rows == min(3, max(0, 8 - offset))
    newest = page(archive, ["sample_id"], where, offset=0, limit=1, newest_first=True)
    assert newest["sample_id"].to_pylist() == ["clip-7"]
    with pytest.raises(ConfigError, match="--newest goes by the index, which has no text"):
        page(archive, ["text"], where, offset=0, limit=3, newest_first=True)


def test_the_rows_of_a_progress_bar_are_those_in_parquet(archive: Path):
    assert count_rows(archive) == 15


def test_a_map_becomes_an_object(archive: Path):
    (table,) = scan(archive, ["reward_parts"], parse_where(["reward=1"]))
    assert plain_rows(table) == [{"reward_parts": {"accuracy": 1.0, "format": 1.0}}]


def test_a_part_of_the_reward_is_a_column_of_its_own(archive: Path):
    where = parse_where(["reward_parts.accuracy>=3", "reward_parts.other=null"])
    table = pa.concat_tables(scan(archive, ["sample_id", "reward_parts.format"], where))
    assert table.to_pylist() == [
        {"sample_id": "clip-6", "reward_parts.format": 1.0},
        {"sample_id": "clip-7", "reward_parts.format": 1.0},
    ]


def test_columns_by_name():
    assert named_columns("label, num_tokens") == ["label", "num_tokens"]
    assert named_columns("reward_parts.accuracy") == ["reward_parts.accuracy"]
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


@given(
    st.lists(st.none() | st.lists(st.none() | st.integers(-(2**31), 2**31 - 1))),
    st.integers(0, 5),
)
def test_lists_of_numbers_are_those_of_arrow(lists: list[list[int | None] | None], start: int):
    kind = pa.list_(pa.int32())
    chunks = pa.chunked_array([pa.array(lists[:2], kind), pa.array(lists[2:], kind)])
    for table in (pa.table({"a": chunks}), pa.table({"n": range(len(lists)), "a": chunks})):
        part = table.slice(start)
        assert plain_rows(part) == part.to_pylist()
