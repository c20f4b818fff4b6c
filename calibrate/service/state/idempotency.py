"""Idempotency keys: answers that were given under a key, so that a retry gets the same one.

    claim (key) -> run the request -> keep (answer), or release (it failed, or was cut off)
                -> a StoredAnswer: the request has been answered before
                -> Problem 409: the same key is being answered now

What is being answered is known in memory alone: a kill frees those keys, and a request that it cut
off can be sent again. Kept answers are on disk before the client has them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from calibrate.service.problems import Problem
from calibrate.service.state.database import Database, Schema

SCHEMA = Schema(
    "idempotency",
    (
        """
        CREATE TABLE idempotency (
            caller TEXT NOT NULL, route TEXT NOT NULL, key TEXT NOT NULL,
            fingerprint TEXT NOT NULL, status INTEGER NOT NULL,
            content_type TEXT NOT NULL, location TEXT, body BLOB NOT NULL,
            created_at REAL NOT NULL, PRIMARY KEY (caller, route, key)
        ) WITHOUT ROWID;
        CREATE INDEX idempotency_age ON idempotency (created_at);
        """,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyScope:
    """Scope of a key: the same key of another caller, or for another route, is another one."""

    caller: str
    route: str
    """Method and path."""
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """Answer that a request had."""

    fingerprint: str
    """Of the request's payload."""
    status: int
    content_type: str
    location: str | None
    body: bytes


class IdempotencyKeys:
    """Idempotency keys of a service."""

    def __init__(
        self, database: Database, keep_s: float, now: Callable[[], float] = time.time
    ) -> None:
        self._database, self._keep_s, self._now = database, keep_s, now
        self._in_progress: set[KeyScope] = set()

    async def claim(self, scope: KeyScope) -> StoredAnswer | None:
        """The answer kept under a key; None: the key is now the caller's, who ends with ``keep`` or
        ``release``. Raises Problem 409 while another request has it."""
        if scope in self._in_progress:
            raise Problem(
                409,
                "idempotency-key-in-use",
                "a request with this Idempotency-Key is being answered; wait, then send it again",
                headers={"Retry-After": "1"},
            )
        self._in_progress.add(scope)
        try:
            answer = await self._database.run(lambda: self._read(scope))
        except BaseException:
            self.release(scope)
            raise
        if answer is not None:
            self.release(scope)
        return answer

    async def keep(self, scope: KeyScope, answer: StoredAnswer) -> None:
        """Keep the answer, and forget those that are too old."""
        try:
            await self._database.run(lambda: self._write(scope, answer))
        finally:
            self.release(scope)

    def release(self, scope: KeyScope) -> None:
        """Free a key whose request left no answer to keep."""
        self._in_progress.discard(scope)

    def _read(self, scope: KeyScope) -> StoredAnswer | None:
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT * FROM idempotency WHERE caller = ? AND route = ? AND key = ? "
                "AND created_at > ?",
                (scope.caller, scope.route, scope.key, self._now() - self._keep_s),
            ).fetchone()
        if row is None:
            return None
        return StoredAnswer(
            fingerprint=row["fingerprint"],
            status=row["status"],
            content_type=row["content_type"],
            location=row["location"],
            body=row["body"],
        )

    def _write(self, scope: KeyScope, answer: StoredAnswer) -> None:
        with self._database.write() as connection:
            connection.execute(
                "DELETE FROM idempotency WHERE created_at <= ?", (self._now() - self._keep_s,)
            )
            connection.execute(
                "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    scope.caller,
                    scope.route,
                    scope.key,
                    answer.fingerprint,
                    answer.status,
                    answer.content_type,
                    answer.location,
                    answer.body,
                    self._now(),
                ),
            )
