"""Browsing beside a writer and compactions: pages, counts, filters, always those of the files."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.groups import UNREADABLE, make_group, make_sample, make_trace
from wire.archive import index
from wire.archive.archive import Archive, read_table
from wire.archive.compaction import compact_archive
from wire.archive.index import BROWSE_COLUMNS, browse, count, sources, summarise
from wire.archive.index_files import INDEX_SCHEMA, index_path
from wire.archive.parquet_files import parquet_files
from wire.errors import ArchiveError
from wire.types import PolicyVersion, Purpose, Split


def fill(directory: Path, steps: int, attempt: int = 0, compacts: int | None = None) -> None:
    """Groups of two labels: three a step, the last of a step without a trace; those of the last
    step stay in the journal. ``compacts``: after this step."""
    with Archive(directory, attempt) as archive:
        for step in range(steps + 1):
            for number in range(3):
                traces = [make_trace(float(step), tokens=range(step + 2)), make_trace(None)]
                archive.append(
                    make_group(
                        *([] if number == 2 else traces),
                        group_id=f"grpo/{step:03d}-{number}",
                        sample=make_sample("ab"[number % 2], id=f"s{number}", split=Split.VAL),
                        purpose=Purpose.VALIDATION if step % 2 else Purpose.TRAIN,
                        policy_version=PolicyVersion(attempt=attempt, step=step),
                        failures=[UNREADABLE] if number == 2 else [],
                    )
                )
            if step < steps:
                archive.compact(step)
            if step == compacts:
                compact_archive(directory)


def rows(directory: Path, **options: Any) -> list[tuple[str, int | None]]:
    page = browse(directory, limit=10_000, **options)
    return list(zip(page["group_id"].to_pylist(), page["trace_index"].to_pylist(), strict=True))


def all_rows(directory: Path) -> list[tuple[str, int | None]]:
    table = read_table(directory, ["group_id", "trace_index"])
    return list(zip(table["group_id"].to_pylist(), table["trace_index"].to_pylist(), strict=True))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An attempt with merged files, step files and a journal, and a second attempt's files."""
    fill(tmp_path, 4, compacts=2)
    fill(tmp_path, 2, attempt=1)
    return tmp_path


def test_a_page_holds_the_rows_of_the_archive_in_order(archive: Path) -> None:
    every = all_rows(archive)
    assert rows(archive) == every
    assert rows(archive, newest_first=True) == every[::-1]
    for offset in range(0, len(every) + 3, 2):
        page = browse(archive, ["group_id", "trace_index"], offset=offset, limit=5)
        assert [tuple(row.values()) for row in page.to_pylist()] == every[offset : offset + 5]
        page = browse(
            archive, ["group_id", "trace_index"], offset=offset, limit=5, newest_first=True
        )
        assert [tuple(row.values()) for row in page.to_pylist()] == every[::-1][offset:][:5]


def test_a_row_says_what_was_written_and_where_it_lies(archive: Path) -> None:
    page = browse(archive, where=pc.field("group_id") == "grpo/001-0")
    first = page.to_pylist()[0]
    assert tuple(first) == BROWSE_COLUMNS
    assert (first["step"], first["reward"], first["num_tokens"], first["label"]) == (1, 1.0, 3, "a")
    assert first["file"] == "attempt=000-step=000000-to=000002-merge=1.parquet"
    assert first["row_group"] == 0
    assert browse(archive, ["file"], limit=1).to_pylist() == [{"file": first["file"]}]
    journaled = browse(archive, newest_first=True, limit=1).to_pylist()[0]
    assert (journaled["file"], journaled["row_group"]) == ("journal-1.bin", None)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    label=st.sampled_from("ab"),
    reward=st.integers(0, 4),
    offset=st.integers(0, 12),
    limit=st.integers(1, 9),
    newest_first=st.booleans(),
)
def test_a_filtered_page_is_that_of_the_whole_table(
    tmp_path_factory: pytest.TempPathFactory,
    label: str,
    reward: int,
    offset: int,
    limit: int,
    newest_first: bool,
) -> None:
    directory = tmp_path_factory.getbasetemp() / "filtered"
    if not directory.exists():
        fill(directory, 4, compacts=2)
    where = (pc.field("label") == label) & (pc.field("reward") >= reward)
    names = ["group_id", "trace_index"]
    kept = read_table(directory, ["label", "reward", *names]).filter(where).select(names)
    expected = kept.to_pylist()[:: -1 if newest_first else 1][offset : offset + limit]
    page = browse(directory, names, where, offset=offset, limit=limit, newest_first=newest_first)
    assert page.to_pylist() == expected
    assert count(directory, where) == kept.num_rows


def test_a_summary_counts_what_the_files_hold(archive: Path) -> None:
    before = summarise(archive)
    table = read_table(archive)
    assert sum(one.traces for one in before.counts) == pc.count(table["trace_index"]).as_py()
    assert sum(one.groups for one in before.counts) == 8 * 3
    assert sum(one.failed for one in before.counts) == 8 * 2 + 8
    tokens = pc.sum(pc.list_value_length(table["token_ids"])).as_py()
    assert sum(one.tokens for one in before.counts) == tokens
    assert sum(one.reward_sum for one in before.counts) == pc.sum(table["reward"]).as_py()
    first = before.counts[0]
    assert (first.attempt, first.purpose, first.split, first.label) == (0, "train", "val", "a")
    assert (first.first_step, first.last_step) == (0, 4)
    assert before.num_indexed == 1
    assert before.num_files == len(parquet_files(archive)) + 1
    compact_archive(archive)
    after = summarise(archive)
    assert after.counts == before.counts
    assert after.num_indexed == 2


def test_an_index_is_made_by_compaction_for_each_file_and_goes_with_it(archive: Path) -> None:
    compact_archive(archive)
    files = parquet_files(archive)
    assert sorted(path.name for path in (archive / "index").iterdir()) == [
        path.name for path in files
    ]
    index_path(archive, files[0]).unlink()  # lost, or killed before it was written
    assert rows(archive) == all_rows(archive)
    compact_archive(archive)
    assert index_path(archive, files[0]).exists()


@pytest.mark.parametrize("content", [b"", b"PAR1 half", None], ids=["empty", "half", "another"])
def test_an_index_that_is_not_the_file_s_own_is_not_believed(
    archive: Path, content: bytes | None
) -> None:
    compact_archive(archive)
    first, second = parquet_files(archive)
    place = index_path(archive, first)
    place.write_bytes(index_path(archive, second).read_bytes() if content is None else content)
    assert rows(archive) == all_rows(archive)
    compact_archive(archive)
    assert all(source.is_indexed for source in sources(archive) if source.path.suffix != ".bin")
    assert rows(archive) == all_rows(archive)


def test_a_group_in_a_journal_and_in_parquet_is_listed_once(tmp_path: Path) -> None:
    """A crash came between the two."""
    with Archive(tmp_path, 0) as archive:
        archive.append(make_group(make_trace(), group_id="g0"))
        kept = (tmp_path / "journal-0.bin").read_bytes()
        archive.compact(0)
    (tmp_path / "journal-0.bin").write_bytes(kept)
    assert rows(tmp_path) == [("g0", 0)]
    assert sum(one.traces for one in summarise(tmp_path).counts) == 1


def test_a_look_beside_a_compaction_looks_again(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = all_rows(archive)
    compact_archive(archive)
    found = index.sources

    def sources_merged_meanwhile(directory: Path) -> Any:
        gone = list(found(directory))
        if len(looked) == 0:
            for source in gone:
                index_path(directory, source.path).unlink(missing_ok=True)
        looked.append(len(gone))
        return iter(gone)

    looked: list[int] = []
    monkeypatch.setattr(index, "sources", sources_merged_meanwhile)
    assert rows(archive) == every
    assert len(looked) == 2


def test_a_look_writes_nothing(archive: Path) -> None:
    shutil.rmtree(archive / "index")
    before = sorted((path, path.stat().st_mtime_ns) for path in archive.rglob("*"))
    browse(archive)
    summarise(archive)
    assert sorted((path, path.stat().st_mtime_ns) for path in archive.rglob("*")) == before


def test_an_empty_archive_has_an_empty_page(tmp_path: Path) -> None:
    Archive(tmp_path, 0).close()
    assert browse(tmp_path).column_names == [*INDEX_SCHEMA.names, "file"]
    assert summarise(tmp_path).counts == ()
    with pytest.raises(ArchiveError, match="no trace archive"):
        browse(tmp_path / "nowhere")
