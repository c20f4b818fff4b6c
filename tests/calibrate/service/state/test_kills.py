"""Registry and audit log, whose process is killed a hundred times at random."""

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from calibrate.service.state.audit import Audit, AuditRow
from calibrate.service.state.database import Database
from tests.calibrate.classifiers import make_description, publish
from tests.calibrate.service.state.killed_writer import (
    Told,
    context,
    open_database,
    open_registry,
    write_until_killed,
)
from tests.calibrate.service.state.wholeness import check_aliases, check_folders

KILLS = 100
LONGEST_S = 0.25


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing_that_was_answered_and_leave_one_champion(tmp_path: Path):
    state, draw = tmp_path / "state", random.Random(0)
    state.mkdir()
    published = [published_as(tmp_path, f"classifier-{number}") for number in range(150)]
    known = Known()
    seen: Counter[str] = Counter()
    for kill in range(KILLS):
        told = killed(state, published, kill, draw.uniform(0, LONGEST_S))
        known.answered |= told.done
        known.unanswered |= {told.begun} - {None}
        seen["in a change"] += told.begun is not None
        seen["while it opened"] += not told.was_open
        seen["with a folder half made"] += bool(left_over(state))
        check(state, known)
    assert seen["in a change"] > KILLS / 4, seen
    assert seen["while it opened"] > 0, seen
    assert seen["with a folder half made"] > 0, seen
    assert len(known.answered) > 5 * KILLS
    database = open_database(state)
    check_folders(open_registry(state, database), state / "classifiers")
    database.close()


@dataclass
class Known:
    """What all processes together told."""

    answered: dict[str, dict[str, Any]] = field(default_factory=dict)
    unanswered: set[str | None] = field(default_factory=set)
    """Tags of changes that a kill came into: they stand whole, or not at all."""


def published_as(tmp_path: Path, name: str) -> Path:
    out = tmp_path / "published" / name
    return publish(tmp_path, out=out, description=make_description(name=name)).path


def killed(state: Path, published: list[Path], seed: int, after_s: float) -> Told:
    """What a process told that was killed so long after its start."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=write_until_killed, args=(state, published, seed, theirs))
    process.start()
    theirs.close()
    time.sleep(after_s)  # the moment of the kill: nothing is waited for
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    told = Told.until_end(ours)
    process.join(10)
    assert process.exitcode == -signal.SIGKILL, "it ended on its own"
    return told


def left_over(state: Path) -> list[str]:
    """Folders without a row. (Looks as a reader does, and removes nothing.)"""
    names = {place.name for place in (state / "classifiers").glob("*")}
    database = open_database(state)
    with database.read() as connection:
        rows = connection.execute("SELECT version FROM classifiers").fetchall()
    database.close()
    return sorted(names - {str(row["version"]) for row in rows})


def check(state: Path, known: Known) -> None:
    database = open_database(state)
    audit = Audit(database)
    assert audit.verify() is None
    rows = audit.page(limit=10**9)
    tags = [tag_of(row) for row in rows]
    assert len(tags) == len(set(tags)), "a change was made twice"
    answered = {tag for tag, answer in known.answered.items() if answer["has_row"]}
    assert answered <= set(tags), "a change that was answered is lost"
    assert set(tags) <= answered | known.unanswered
    check_aliases(database, rows)
    check_versions(state, database, known)
    database.close()


def tag_of(row: AuditRow) -> str:
    """Tag of the change that a row is of."""
    kind = row.action.partition(".")[2]
    if kind == "registered":
        return str(row.detail["source"])
    if kind in ("promoted", "rolled_back"):
        return str(row.detail["reason"])
    return row.actor if row.action.startswith("challenger") else row.subject


def check_versions(state: Path, database: Database, known: Known) -> None:
    """Versions are those that were answered, 1 to n, each with a folder."""
    with database.read() as connection:
        rows = connection.execute("SELECT version, hash FROM classifiers").fetchall()
    hashes = {row["version"]: row["hash"] for row in rows}
    assert sorted(hashes) == list(range(1, len(rows) + 1))
    assert len(set(hashes.values())) == len(rows)
    for answer in known.answered.values():
        if "version" in answer:
            assert hashes[answer["version"]] == answer["hash"]
    for version in hashes:
        assert (state / "classifiers" / str(version) / "classifier.json").is_file()
