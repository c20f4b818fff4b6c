"""Process that changes registry and audit log until it is killed, and tells what it has done.

Forked, so that a hundred of them take seconds. (No test file.)
"""

import multiprocessing
import random
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from calibrate.service.problems import Problem
from calibrate.service.state import audit, registry
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database
from calibrate.service.state.registry import Registry

ACTIONS = ("register", "promote", "promote", "roll_back", "roll_back", "propose", "append")
context = multiprocessing.get_context("fork")


@dataclass
class Told:
    """What a process told until it was killed."""

    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Tag -> answer of each change."""
    begun: str | None = None
    """Tag of the change that had no answer yet."""
    was_open: bool = False

    @classmethod
    def until_end(cls, connection: Connection) -> "Told":
        """All that was sent before the other end went."""
        told = cls()
        while True:
            try:
                kind, tag, answer = connection.recv()
            except EOFError:
                return told
            told.was_open = True
            if kind == "begun":
                told.begun = tag
            elif kind == "done":
                told.done[tag] = answer
                told.begun = None


def open_database(state: Path) -> Database:
    return Database.open(state / "service.sqlite", [audit.SCHEMA, registry.SCHEMA])


def open_registry(state: Path, database: Database) -> Registry:
    return Registry(database, Audit(database), state / "classifiers")


def write_until_killed(
    state: Path, published: list[Path], seed: int, connection: Connection
) -> None:
    """Change at random, one change after the other; each has a tag that its audit row holds."""
    draw = random.Random(seed)
    database = open_database(state)
    classifiers = open_registry(state, database)
    connection.send(("open", None, None))
    for number in count():
        tag = f"{seed}-{number}"
        connection.send(("begun", tag, None))
        action = draw.choice(ACTIONS) if classifiers.aliases() else ACTIONS[number % 2]
        connection.send(("done", tag, change(database, classifiers, published, action, tag, draw)))


def change(
    database: Database,
    classifiers: Registry,
    published: list[Path],
    action: str,
    tag: str,
    draw: random.Random,
) -> dict[str, Any]:
    """Answer of one change: ``has_row``: whether the audit log must have a row of it."""
    versions = [one.version for one in classifiers.list()]
    if action == "register":
        one = classifiers.register(draw.choice(published), source=tag, by="test")
        return {"has_row": one.source == tag, "version": one.version, "hash": one.hash}
    if action == "append":
        with database.write() as connection:
            Audit(database).append(connection, "test", "test.appended", tag, {})
        return {"has_row": True}
    before = classifiers.aliases()
    try:
        if action == "promote":
            version = draw.choice(versions)
            classifiers.promote(version, by="test", expected_champion=None, reason=tag)
        elif action == "roll_back":
            classifiers.roll_back(by="test", reason=tag)
        else:
            classifiers.set_challenger(draw.choice(versions), by=tag)
    except Problem:
        return {"has_row": False}
    return {"has_row": classifiers.aliases() != before}
