import threading
from pathlib import Path

import pytest

from wire.archive.archive import Archive
from wire.archive.locks import compacting, hold_as_writer, without_writer
from wire.errors import ArchiveError


def test_an_open_archive_is_a_writer_until_it_is_closed(tmp_path: Path) -> None:
    archive = Archive(tmp_path, 0)
    with without_writer(tmp_path) as is_alone:
        assert not is_alone
    archive.close()
    with without_writer(tmp_path) as is_alone:
        assert is_alone


def test_an_archive_that_cannot_be_opened_holds_no_lock(tmp_path: Path) -> None:
    (tmp_path / "journal-0.bin").write_bytes(b"no journal at all")
    with pytest.raises(ArchiveError):
        Archive(tmp_path, 0)
    with without_writer(tmp_path) as is_alone:
        assert is_alone


def test_several_writers_share_the_lock(tmp_path: Path) -> None:
    with hold_as_writer(tmp_path), hold_as_writer(tmp_path), without_writer(tmp_path) as is_alone:
        assert not is_alone


def test_one_compaction_at_a_time(tmp_path: Path) -> None:
    with (
        compacting(tmp_path),
        pytest.raises(ArchiveError, match=r"process \d+ is compacting"),
        compacting(tmp_path),
    ):
        pass
    with compacting(tmp_path):
        pass


def test_a_run_that_starts_waits_until_the_journals_of_dead_attempts_are_moved(
    tmp_path: Path,
) -> None:
    opened = threading.Event()

    def start() -> None:
        with Archive(tmp_path, 1):
            opened.set()

    Archive(tmp_path, 0).close()
    with without_writer(tmp_path) as is_alone:
        assert is_alone
        run = threading.Thread(target=start)
        run.start()
        assert not opened.wait(0.2)
    assert opened.wait(10)
    run.join()
