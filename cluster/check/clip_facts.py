"""Facts about clips from earlier checks, kept in one SQLite file.

    path + sampling -> size, time of change, and what was seen when the file had these

Safe under crashes and several checks at a time; a damaged file is begun anew. Where the disk fails
or has no locks, a warning says so once, and nothing is remembered.
"""

import contextlib
import logging
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from video.config import VideoConfig
from wire.types import stable_hash

_log = logging.getLogger(__name__)

_LAYOUT = "3"
"""Version of the table: raise it when the columns change, or their meaning, or what decoding
makes of a file."""
_SAVE_S = 1.0
_WAIT_S = 30.0
_TABLE = """CREATE TABLE IF NOT EXISTS clip_facts (
    path TEXT, spec TEXT, size INTEGER, changed INTEGER, digest TEXT, frames INTEGER,
    height INTEGER, width INTEGER, seconds REAL, not_by_decord TEXT, PRIMARY KEY (path, spec)
) WITHOUT ROWID"""
_INSERT = "INSERT OR REPLACE INTO clip_facts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

Stat = tuple[int, int]
"""Bytes, and time of change in nanoseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """Facts about a clip that can be decoded.

    Example:
        ClipFacts(stat=(4096, 17), digest="9f0c...", frames=12, height=56, width=56, seconds=1.5,
                  not_by_decord=None)
    """

    stat: Stat
    digest: str
    """SHA-256 of the file."""
    frames: int
    """Frames sampled for the model."""
    height: int
    width: int
    seconds: float
    not_by_decord: str | None
    """Why PyAV decodes it; None: decord does."""


def stat_of(path: str) -> Stat:
    """Size and time of change of a file. Raises OSError."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


class FactsFile:
    """Facts about clips under one sampling."""

    def __init__(self, path: Path, config: VideoConfig) -> None:
        """Opens the file, or makes it."""
        sampling = {"fps", "min_frames", "max_frames", "decoder"}
        self._spec = stable_hash(_LAYOUT, config.model_dump(include=sampling))[:16]
        self._path, self._saved = path, time.monotonic()
        self._unsaved: list[tuple[object, ...]] = []
        self._database: sqlite3.Connection | None = None
        try:
            self._database = _open(path)
        except (OSError, sqlite3.Error) as error:
            self._go_without(error)

    def get(self, path: str) -> ClipFacts | None:
        """Facts about a file; None if the file was never scanned, is gone, or has changed."""
        columns = "size, changed, digest, frames, height, width, seconds, not_by_decord"
        query = f"SELECT {columns} FROM clip_facts WHERE path = ? AND spec = ?"
        if self._database is None:
            return None
        try:
            row = self._database.execute(query, (path, self._spec)).fetchone()
        except sqlite3.Error as error:
            self._go_without(error)
            return None
        if row is None:
            return None
        try:
            stat = stat_of(path)
        except OSError:
            return None
        if (row[0], row[1]) != stat:
            return None
        _, _, digest, frames, height, width, seconds, not_by_decord = row
        return ClipFacts(
            stat=stat,
            digest=digest,
            frames=frames,
            height=height,
            width=width,
            seconds=seconds,
            not_by_decord=not_by_decord,
        )

    def put(self, path: str, facts: ClipFacts) -> None:
        """Keep the facts about a file; on disk within a second, or on leaving."""
        size, changed = facts.stat
        seen = (facts.digest, facts.frames, facts.height, facts.width, facts.seconds)
        row = (path, self._spec, size, changed, *seen, facts.not_by_decord)
        self._unsaved.append(row)
        if time.monotonic() - self._saved > _SAVE_S:
            self._save()

    def _save(self) -> None:
        """One short transaction: another check need not wait for the next clip."""
        if self._database is None:
            return
        try:
            with self._database:
                self._database.executemany(_INSERT, self._unsaved)
        except sqlite3.Error as error:
            self._go_without(error)
        self._unsaved.clear()
        self._saved = time.monotonic()

    def _go_without(self, error: Exception) -> None:
        _log.warning(
            "cannot remember clips in %s (%s): the next check scans them", self._path, error
        )
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._save()  # also when interrupted
        if self._database is not None:
            self._database.close()


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _connect(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # damaged, or no database at all
        path.unlink()
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_WAIT_S)
    try:
        database.execute(_TABLE)
    except BaseException:
        database.close()
        raise
    return database
