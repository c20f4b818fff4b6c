"""SQL over an archive: all of its groups, each once, and nothing is written."""

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.archive import query as query_module
from cluster.archive.find import find_groups
from cluster.archive.query import query
from tests.cluster.trace_archives import make_groups, write_archive
from wire.archive.archive import read_table, read_tables
from wire.archive.compaction import compact_archive
from wire.archive.deletion import SEARCHED, Video, delete_videos, find_videos
from wire.errors import ArchiveError, ConfigError

COUNT = "SELECT count(*) AS n, count(DISTINCT group_id) AS g FROM traces"
NUM_TRACES = sum(max(1, len(group.traces)) for group in make_groups())


def rows(archive: Path, sql: str) -> list[dict[str, Any]]:
    return [row for table in query(archive, sql) for row in table.to_pylist()]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_archive(tmp_path)
    return tmp_path / "archive"


def test_the_view_is_the_archive_with_its_journal(archive: Path):
    tables = list(query(archive, "SELECT * FROM traces"))
    expected = read_table(archive)
    answer = pa.concat_tables(tables)
    assert answer.column_names == expected.column_names
    key = [("group_id", "ascending"), ("trace_index", "ascending")]
    assert answer.sort_by(key).to_pylist() == expected.sort_by(key).to_pylist()


def test_a_question_of_a_user(archive: Path):
    sql = "SELECT label, max(reward) AS best FROM traces GROUP BY label ORDER BY label"
    assert rows(archive, sql) == [{"label": "redo", "best": 3.5}, {"label": "undo", "best": 3.0}]


def test_an_archive_with_a_journal_only(tmp_path: Path):
    write_archive(tmp_path, make_groups(0))
    assert rows(tmp_path / "archive", COUNT) == [{"n": 1, "g": 1}]


def test_a_group_in_parquet_and_still_in_the_journal_counts_once(archive: Path):
    """A crash between the two leaves it in both."""
    journal = archive / "journal-0.bin"
    kept = journal.read_bytes()
    compact_archive(archive)
    assert len(list((archive / "traces").iterdir())) == 1
    journal.write_bytes(kept)
    assert rows(archive, COUNT) == [{"n": NUM_TRACES, "g": 9}]


def test_files_that_are_merged_under_a_query_are_read_where_they_are_now(
    archive: Path, monkeypatch: pytest.MonkeyPatch
):
    real, listings = query_module.parquet_files, list[list[Path]]()

    def listing(directory: Path) -> list[Path]:
        listings.append(real(directory))
        if len(listings) == 1:
            compact_archive(directory)
        return listings[-1]

    monkeypatch.setattr(query_module, "parquet_files", listing)
    assert rows(archive, COUNT) == [{"n": NUM_TRACES, "g": 9}]
    assert [len(files) for files in listings] == [2, 1, 1]


def test_places_with_wildcards_and_quotes_are_names(tmp_path: Path):
    for name in ("a[b]", "it's", "lr=0.1", "x*?"):
        write_archive(tmp_path / name)
        assert rows(tmp_path / name / "archive", COUNT) == [{"n": NUM_TRACES, "g": 9}]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM traces",
        "CREATE TABLE t AS SELECT * FROM traces",
        "COPY traces TO 'out.csv'",
        "EXPLAIN ANALYZE COPY traces TO 'out.csv'",
        "EXPORT DATABASE 'out'",
        "ATTACH 'out.db'",
        "INSTALL httpfs",
        "SET threads = 1",
    ],
)
def test_what_is_no_select_is_refused(archive: Path, sql: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(archive)
    before = sorted(archive.rglob("*"))
    with pytest.raises(ConfigError, match="only read"):
        query(archive, sql)
    assert sorted(archive.rglob("*")) == before


@pytest.mark.parametrize(
    ("sql", "advice"),
    [
        ("SELECT labl FROM traces", 'Candidate bindings: "label"'),
        ("SELECT label FROM trace", 'Did you mean "traces"?'),
        ("SELCT 1", 'syntax error at or near "SELCT"'),
        ("SELECT label::int FROM traces", "Could not convert string"),
        ("SELECT 1; SELECT 2", "got 2 SQL statements"),
        ("", "got 0 SQL statements"),
    ],
)
def test_a_wrong_statement_gets_the_words_of_duckdb(archive: Path, sql: str, advice: str):
    with pytest.raises(ConfigError) as refused:
        query(archive, sql)
    assert advice in str(refused.value)
    assert "LINE" not in str(refused.value)


def test_a_damaged_file_is_named(archive: Path):
    path = next((archive / "traces").iterdir())
    path.write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(ArchiveError, match=path.name):
        query(archive, COUNT)


def test_without_duckdb_the_command_that_installs_it(
    archive: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ConfigError, match=r"pip install 'deepintuit\[archive\]'"):
        query(archive, COUNT)


def test_a_large_answer_comes_in_parts(archive: Path):
    answer = query(archive, "SELECT * FROM range(100000) t(number)")
    sizes = [table.num_rows for table in answer]
    assert sum(sizes) == 100_000
    assert len(sizes) > 1


def test_no_rows_have_names(archive: Path):
    answer = query(archive, "SELECT label, reward FROM traces WHERE label = 'none'")
    assert answer.schema.names == ["label", "reward"]
    assert sum(table.num_rows for table in answer) == 0


def test_deleted_videos_are_in_no_answer_nor_found_by_id(archive: Path):
    """Some rows have the video's hash, those that could not be decoded its address only."""
    videos = read_table(archive, ["video", "group_id"]).to_pylist()
    address = videos[0]["video"]
    gone = {row["group_id"] for row in videos if row["video"] == address}
    hashes = {address: "1" * 64}
    use = find_videos(read_tables(archive, SEARCHED), ["1" * 64], hashes.get)
    delete_videos(archive, use.videos, "today")
    left = rows(archive, "SELECT DISTINCT group_id AS g FROM traces")
    assert {row["g"] for row in left} == {row["group_id"] for row in videos} - gone
    for group_id in gone:
        with pytest.raises(ConfigError, match="has no group"):
            find_groups(archive, group_id)


def videos_of(archive: Path) -> set[str]:
    return set(read_table(archive, ["video"])["video"].to_pylist())


def test_no_view_shows_what_is_deleted(archive: Path):
    rows_before = rows(archive, "SELECT group_id, video_hash FROM journaled")
    delete_videos(archive, {"1" * 64: Video(addresses=videos_of(archive))}, "today")
    assert rows_before
    views = {row["name"] for row in rows(archive, "SHOW TABLES")} - {
        "deleted_hashes",
        "deleted_videos",
    }
    for name in views:
        assert rows(archive, f"SELECT video FROM {name}") == [], name


def test_columns_of_one_name_are_told_apart(archive: Path):
    sql = "SELECT a.label, 1 AS label_1, b.label FROM traces a JOIN traces b USING (group_id)"
    for limit, number in (("", 1), (" LIMIT 0", 0)):
        answer = query(archive, sql + limit)
        assert answer.schema.names == ["label", "label_1", "label_2"]
        assert all(t.column_names == answer.schema.names for t in answer if number)
