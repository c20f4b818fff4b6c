"""Checks that a state directory is whole after kills. (No test file.)"""

from pathlib import Path

from calibrate.classifier import load_classifier
from calibrate.service.state.audit import AuditRow
from calibrate.service.state.database import Database
from calibrate.service.state.registry import Registry


def check_aliases(database: Database, rows: list[AuditRow]) -> None:
    """Aliases are those that the newest row of a move tells of; each move begins where the one
    before it ended."""
    with database.read() as connection:
        aliases = {
            row["name"]: row["version"] for row in connection.execute("SELECT * FROM aliases")
        }
    moves = [row.detail for row in reversed(rows) if "after" in row.detail]
    ends = [{}, *(move["after"] for move in moves)]
    assert aliases == ends[-1]
    assert [move["before"] for move in moves] == ends[:-1]
    assert all("champion" in end for end in ends[1:]), "exactly one champion, from the first on"


def check_folders(classifiers: Registry, folder: Path) -> None:
    """After a start every folder is a version, with all its bytes."""
    assert {place.name for place in folder.iterdir()} == {
        str(one.version) for one in classifiers.list()
    }
    for one in classifiers.list():
        assert load_classifier(one.path).version == one.hash
