import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from calibrate.service.state.database import Database, Schema
from wire.errors import DataError, DiskFull

NOTES = Schema("notes", ("CREATE TABLE notes (text TEXT NOT NULL);",))
LATER = Schema("notes", (*NOTES.versions, "ALTER TABLE notes ADD COLUMN author TEXT;"))


def texts(database: Database) -> list[str]:
    with database.read() as connection:
        return [row["text"] for row in connection.execute("SELECT text FROM notes")]


def test_a_transaction_is_whole_or_not_at_all(tmp_path: Path):
    database = Database.open(tmp_path / "s.sqlite", [NOTES])
    with database.write() as connection:
        connection.execute("INSERT INTO notes VALUES ('kept')")
    with pytest.raises(sqlite3.IntegrityError), database.write() as connection:
        connection.executemany("INSERT INTO notes VALUES (?)", [("gone",), (None,)])
    assert texts(database) == ["kept"]
    database.close()


def test_tables_are_brought_to_their_newest_version_once(tmp_path: Path):
    first = Database.open(tmp_path / "s.sqlite", [NOTES])
    with first.write() as connection:
        connection.execute("INSERT INTO notes VALUES ('old')")
    first.close()
    for _ in range(2):
        later = Database.open(tmp_path / "s.sqlite", [LATER])
        with later.read() as connection:
            assert [tuple(row) for row in connection.execute("SELECT * FROM notes")] == [
                ("old", None)
            ]
        later.close()
    with pytest.raises(DataError, match="a later version wrote it"):
        Database.open(tmp_path / "s.sqlite", [NOTES])


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / "s.sqlite").write_text("not a database, but long enough to look like one" * 99)
    with pytest.raises(DataError, match="cannot be used as the service's state"):
        Database.open(tmp_path / "s.sqlite", [NOTES])


def test_a_failed_migration_leaves_the_tables_as_they_were(tmp_path: Path):
    Database.open(tmp_path / "s.sqlite", [NOTES]).close()
    broken = Schema("notes", (*NOTES.versions, "CREATE TABLE more (a); CREATE TABLE more (a);"))
    with pytest.raises(DataError):
        Database.open(tmp_path / "s.sqlite", [broken])
    with sqlite3.connect(tmp_path / "s.sqlite") as connection:
        assert "more" not in {
            row[0] for row in connection.execute("SELECT name FROM sqlite_master")
        }


async def test_readers_go_on_beside_a_writer_and_writers_take_turns(tmp_path: Path):
    database = Database.open(tmp_path / "s.sqlite", [NOTES])
    inside, end = threading.Event(), threading.Event()

    def slow() -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO notes VALUES ('slow')")
            inside.set()
            end.wait(10)

    def fast() -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO notes VALUES ('fast')")

    writing = asyncio.create_task(database.run(slow))
    await asyncio.to_thread(inside.wait, 10)
    assert await database.run(lambda: texts(database)) == []
    second = asyncio.create_task(database.run(fast))
    end.set()
    await asyncio.gather(writing, second)
    assert texts(database) == ["slow", "fast"]
    database.close()


async def test_closing_closes_the_file_in_every_thread_that_has_read_it(tmp_path: Path):
    """Else its log is not taken into the file, and a fork has the file open."""
    database = Database.open(tmp_path / "s.sqlite", [NOTES])
    with database.write() as connection:
        connection.execute("INSERT INTO notes VALUES ('kept')")
    assert texts(database) == ["kept"]
    assert await database.run(lambda: texts(database)) == ["kept"]
    assert (tmp_path / "s.sqlite-wal").exists()
    database.close()
    assert [file.name for file in tmp_path.iterdir()] == ["s.sqlite"]


def test_a_full_disk_is_named_and_the_next_transaction_goes_on(tmp_path: Path):
    database = Database.open(tmp_path / "s.sqlite", [NOTES])
    with database.write() as connection:
        connection.execute("PRAGMA max_page_count = 20")  # SQLite then says that the disk is full
        connection.execute("INSERT INTO notes VALUES ('kept')")
    with pytest.raises(DiskFull), database.write() as connection:
        connection.execute("INSERT INTO notes VALUES (?)", ("x" * 200_000,))
    with database.write() as connection:
        connection.execute("INSERT INTO notes VALUES ('after')")
    assert texts(database) == ["kept", "after"]
    database.close()
