import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from calibrate.service.state.audit import SCHEMA, Audit, Head
from calibrate.service.state.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "s.sqlite", [SCHEMA])
    yield database
    database.close()


def append(database: Database, *actions: str, actor: str = "ada", **detail: object) -> list[int]:
    with database.write() as connection:
        return [
            Audit(database).append(connection, actor, action, "classifiers/1", detail)
            for action in actions
        ]


def changed(database: Database, statement: str, *values: object) -> None:
    """A change by someone who can write the file, and so drop the triggers."""
    with sqlite3.connect(database.path) as connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in triggers.fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement, values)
    connection.close()


def test_rows_follow_each_other_and_come_newest_first(database: Database):
    assert append(database, "one", "two") == [1, 2]
    assert append(database, "three", share=0.5, nothing=float("nan")) == [3]
    rows = Audit(database).page(limit=2)
    assert [row.action for row in rows] == ["three", "two"]
    assert rows[0].detail == {"share": 0.5, "nothing": None}
    assert rows[0].previous == rows[1].hash
    assert [row.id for row in Audit(database).page(limit=5, before=2)] == [1]
    assert [row.id for row in Audit(database).page(limit=5, action="two")] == [2]
    assert Audit(database).page(limit=5, before=2**70, actor="bob") == []
    assert Audit(database).verify() is None


def test_a_row_stands_only_with_the_change_that_it_tells_of(database: Database):
    audit = Audit(database)

    def fail(connection: sqlite3.Connection) -> None:
        audit.append(connection, "ada", "classifier.promoted", "classifiers/1", {})
        connection.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(sqlite3.OperationalError), database.write() as connection:
        fail(connection)
    assert audit.head() == Head(id=0, hash="")
    assert append(database, "next") == [1]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'eve' WHERE id = 2",
        "DELETE FROM audit WHERE id = 3",
        "INSERT INTO audit VALUES (5, '', '', '', '', '', '', '')",
        "INSERT INTO audit SELECT 4, at, actor, action, subject, detail, previous, hash FROM audit",
        "INSERT OR REPLACE INTO audit SELECT id, at, 'eve', action, subject, detail, previous, hash"
        " FROM audit WHERE id = 3",
    ],
)
def test_the_table_refuses_every_change_of_its_past(database: Database, statement: str):
    append(database, "one", "two", "three")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"), database.write() as connection:
        connection.execute(statement)
    assert Audit(database).verify() is None
    assert Audit(database).head().id == 3


@pytest.mark.parametrize(
    ("statement", "row", "reason"),
    [
        ("UPDATE audit SET actor = 'eve' WHERE id = 2", 2, "not those that were hashed"),
        ("UPDATE audit SET detail = '{}' WHERE id = 1", 1, "not those that were hashed"),
        ("DELETE FROM audit WHERE id = 2", 2, "the row is missing"),
        ("UPDATE audit SET hash = previous WHERE id = 1", 1, "not those that were hashed"),
        ("UPDATE audit SET previous = '' WHERE id = 3", 3, "does not follow"),
    ],
)
def test_a_change_of_the_file_is_told_with_its_first_row(
    database: Database, statement: str, row: int, reason: str
):
    append(database, "one", "two", "three", why="because")
    changed(database, statement)
    broken = Audit(database).verify()
    assert broken is not None
    assert broken.id == row
    assert reason in broken.reason


def test_a_noted_head_shows_rows_that_were_cut_off_or_all_written_anew(database: Database):
    audit = Audit(database)
    append(database, "one", "two", "three")
    noted = audit.head()
    append(database, "four")
    assert audit.verify(noted) is None
    changed(database, "DELETE FROM audit WHERE id >= 3")
    assert audit.verify() is None, "a shorter log is whole in itself"
    broken = audit.verify(noted)
    assert broken is not None
    assert "the log ends at row 2" in broken.reason
    append(database, "another three")
    broken = audit.verify(noted)
    assert broken is not None
    assert (broken.id, "was noted" in broken.reason) == (3, True)


def test_names_that_are_no_utf8_are_written_escaped(database: Database):
    append(database, "one", actor="ad\udcffa", name="\udcff\x00")
    (row,) = Audit(database).page(limit=1)
    assert row.actor == "ad\\udcffa"
    assert row.detail == {"name": "\udcff\x00"}
    assert Audit(database).verify() is None


def test_processes_and_threads_that_append_at_once_make_one_chain(database: Database):
    """As a service and `serve STATE --new-token` beside it do."""
    beside = Database.open(database.path, [SCHEMA])
    with ThreadPoolExecutor(4) as pool:
        each = [pool.submit(append, one, *"abcde") for one in (database, beside) * 10]
        numbers = sorted(number for one in each for number in one.result(60))
    beside.close()
    assert numbers == list(range(1, 101))
    assert Audit(database).verify() is None
