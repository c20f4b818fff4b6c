"""Reviews: the queue of what people must look at, leases, answers, outcomes.

    decision -> open -> waiting -> lease (one person, until a time) -> complete -> outcome
                            ^---------- expired, released ------'

A share of the reviews goes to a second person, who does not see the first one's answer; where the
two disagree, to a third. The outcome is the label of most. Answers are never changed.
"""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence

from calibrate.service.caller import Caller
from calibrate.service.intake.store import ClipStore
from calibrate.service.metrics import Metrics
from calibrate.service.problems import Problem
from calibrate.service.protocols import NewReview
from calibrate.service.reviews.agreement import ReviewStats, review_stats
from calibrate.service.reviews.review import (
    Review,
    ReviewKind,
    ReviewState,
    answers_of,
    review_of,
    utc,
)
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database, Schema
from wire.types import stable_hash

SCHEMA = Schema(
    "reviews",
    (
        """
CREATE TABLE reviews (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    decision_id TEXT NOT NULL,
    video_hash TEXT NOT NULL,
    label TEXT NOT NULL,
    kind TEXT NOT NULL,
    reasons TEXT NOT NULL,
    weight REAL NOT NULL,
    created_at TEXT NOT NULL,
    due REAL NOT NULL,
    priority INTEGER NOT NULL,
    num_needed INTEGER NOT NULL,
    state TEXT NOT NULL,
    outcome TEXT,
    completed_at TEXT
);
CREATE INDEX reviews_waiting ON reviews (state, due);
CREATE INDEX reviews_of_decision ON reviews (decision_id);
CREATE TABLE review_leases (
    review_id TEXT NOT NULL REFERENCES reviews (id),
    holder TEXT NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (review_id, holder)
);
CREATE TABLE review_answers (
    review_id TEXT NOT NULL REFERENCES reviews (id),
    place INTEGER NOT NULL,
    holder TEXT NOT NULL,
    reviewer TEXT NOT NULL,
    label TEXT,
    note TEXT NOT NULL,
    answered_at TEXT NOT NULL,
    PRIMARY KEY (review_id, place),
    UNIQUE (review_id, holder)
);
CREATE TRIGGER review_answers_never_change BEFORE UPDATE ON review_answers
BEGIN SELECT RAISE(ABORT, 'answers are never changed'); END;
CREATE TRIGGER review_answers_never_go BEFORE DELETE ON review_answers
BEGIN SELECT RAISE(ABORT, 'answers are never removed'); END;
""",
    ),
)
MAX_LEASE_S = 3600.0
_AN_HOUR = 3600.0
_PRIORITIES = {
    # a level is worth an hour of waiting: the urgent comes first, and nothing waits for ever
    "policy": 3,
    "shift_alarm": 2,
    "no_policy": 1,
    "below_threshold": 1,
    "no_threshold": 1,
}


class Reviews:
    """Queue of reviews."""

    def __init__(
        self,
        database: Database,
        audit: Audit,
        clips: ClipStore,
        *,
        double_share: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``double_share``: share of the reviews that two people answer, each without the other's
        answer."""
        self._database, self._audit, self._clips = database, audit, clips
        self._clock = clock
        self._double_share = double_share

    def add_metrics(self, metrics: Metrics) -> None:
        """Show how many reviews wait."""
        metrics.watch("reviews_waiting", "Reviews that wait for a person.", self._num_waiting)

    def open(self, connection: sqlite3.Connection, review: NewReview) -> None:
        """Add a review, in the transaction of its decision."""
        priority = max((_PRIORITIES.get(code, 1) for code in review.reasons), default=0)
        double = int(stable_hash("double", review.id)[:16], 16) < self._double_share * 2**64
        connection.execute(
            "INSERT INTO reviews (id, decision_id, video_hash, label, kind, reasons, weight, "
            "created_at, due, priority, num_needed, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open')",
            (
                review.id,
                review.decision_id,
                review.video_hash,
                review.label,
                review.kind,
                json.dumps(review.reasons),
                review.weight,
                review.created_at,
                self._clock() - _AN_HOUR * priority,
                priority,
                2 if double else 1,
            ),
        )

    def opened(self, review: NewReview) -> None:
        """Keep the clip of a review that is on disk."""
        self._clips.hold(review.video_hash, review.id)

    async def start(self) -> None:
        """Keep the clips of all reviews that wait, as before the restart."""

        def hold() -> None:
            with self._database.read() as connection:
                rows = connection.execute(
                    "SELECT id, video_hash FROM reviews WHERE state = 'open'"
                ).fetchall()
            for row in rows:
                self._clips.hold(row["video_hash"], row["id"])

        await self._database.run(hold)

    async def lease(self, caller: Caller, count: int, seconds: float) -> list[Review]:
        """Lease up to ``count`` reviews, the most urgent first; those that the caller holds already
        come first and are renewed. No other person gets them until the lease ends."""
        return await self._database.run(lambda: self._lease(caller, count, seconds))

    async def release(self, review_id: str, caller: Caller) -> Review:
        """Give a lease back; without one, nothing changes. Problem 404 if there is no review."""

        def release() -> Review:
            with self._database.write() as connection:
                row = _row_of(connection, review_id)
                connection.execute(
                    "DELETE FROM review_leases WHERE review_id = ? AND holder = ?",
                    (review_id, caller.token_id),
                )
                return review_of(connection, row)

        return await self._database.run(release)

    async def complete(
        self, review_id: str, caller: Caller, *, label: str | None, note: str = ""
    ) -> Review:
        """Answer a leased review; ``label``: None where it cannot be told. The same answer again
        changes nothing. Problem 404, 409 without a lease, after another answer, or if the lease
        ended and others have the review."""
        review = await self._database.run(lambda: self._complete(review_id, caller, label, note))
        if review.state == "done":
            self._clips.release(review.video_hash, review.id)
        return review

    async def get(self, review_id: str) -> Review:
        """One review. Problem 404 if there is none."""

        def read() -> Review:
            with self._database.read() as connection:
                return review_of(connection, _row_of(connection, review_id))

        return await self._database.run(read)

    async def of_decision(self, decision_id: str) -> Review | None:
        """The review that a decision opened; None without one."""

        def read() -> Review | None:
            with self._database.read() as connection:
                row = connection.execute(
                    "SELECT * FROM reviews WHERE decision_id = ?", (decision_id,)
                ).fetchone()
                return None if row is None else review_of(connection, row)

        return await self._database.run(read)

    async def page(
        self, state: ReviewState, kind: ReviewKind | None, limit: int, cursor: int | None
    ) -> tuple[list[Review], int | None]:
        """Reviews, those that wait in the order of the queue, others newest first; and the cursor
        of the next page."""

        def read() -> list[Review]:
            where, values = _conditions(state=state, kind=kind)
            order = "due, seq" if state == "open" else "seq DESC"
            with self._database.read() as connection:
                rows = connection.execute(
                    f"SELECT * FROM reviews WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?",
                    [*values, limit + 1, cursor or 0],
                ).fetchall()
                return [review_of(connection, row) for row in rows]

        reviews = await self._database.run(read)
        more = len(reviews) > limit
        return reviews[:limit], (cursor or 0) + limit if more else None

    async def done(self) -> list[Review]:
        """All reviews that ended with a label, in the order in which they did."""

        def read() -> list[Review]:
            with self._database.read() as connection:
                rows = connection.execute(
                    "SELECT * FROM reviews WHERE state = 'done' AND outcome IS NOT NULL "
                    "ORDER BY completed_at, seq"
                ).fetchall()
                return [review_of(connection, row) for row in rows]

        return await self._database.run(read)

    async def stats(self) -> ReviewStats:
        """Figures of the reviews that wait and of those that have ended."""

        def read() -> ReviewStats:
            with self._database.read() as connection:
                return review_stats(connection, self._clock())

        return await self._database.run(read)

    def _num_waiting(self) -> float:
        with self._database.read() as connection:
            (num,) = connection.execute(
                "SELECT COUNT(*) FROM reviews WHERE state = 'open'"
            ).fetchone()
        return float(num)

    def _lease(self, caller: Caller, count: int, seconds: float) -> list[Review]:
        now = self._clock()
        values = {"now": now, "holder": caller.token_id, "count": count}
        with self._database.write() as connection:
            rows = connection.execute(_LEASABLE, values).fetchall()
            connection.executemany(
                "INSERT OR REPLACE INTO review_leases VALUES (?, ?, ?)",
                [(row["id"], caller.token_id, now + seconds) for row in rows],
            )
            return [review_of(connection, row, until=now + seconds) for row in rows]

    def _complete(self, review_id: str, caller: Caller, label: str | None, note: str) -> Review:
        with self._database.write() as connection:
            row = _row_of(connection, review_id)
            answers = answers_of(connection, review_id)
            own = next((one for one in answers if one["holder"] == caller.token_id), None)
            if own is not None:
                if own["label"] == label:
                    return review_of(connection, row)
                raise Problem(
                    409,
                    "already-answered",
                    f"you have answered {review_id} with {own['label'] or 'cannot tell'!r}; an "
                    "answer is never changed",
                )
            self._refuse_without_lease(connection, row, caller, len(answers))
            connection.execute(
                "INSERT INTO review_answers VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    review_id,
                    len(answers),
                    caller.token_id,
                    caller.name,
                    label,
                    note,
                    utc(self._clock()),
                ),
            )
            connection.execute(
                "DELETE FROM review_leases WHERE review_id = ? AND holder = ?",
                (review_id, caller.token_id),
            )
            self._settle(connection, row, [*(one["label"] for one in answers), label])
            review = review_of(connection, _row_of(connection, review_id))
            self._audit.append(
                connection,
                caller.name,
                "review.answered",
                f"reviews/{review_id}",
                {
                    "decision": row["decision_id"],
                    "classifier_label": row["label"],
                    "label": label,
                    "state": review.state,
                    "overturned": review.overturned,
                },
            )
            return review

    def _refuse_without_lease(
        self, connection: sqlite3.Connection, row: sqlite3.Row, caller: Caller, num_answers: int
    ) -> None:
        """Raise Problem 409 unless the caller may answer: its lease goes on, or has ended without
        another person in its place."""
        if row["state"] != "open":
            raise Problem(409, "review-done", f"{row['id']} has ended; lease another")
        leases = connection.execute(
            "SELECT holder, until FROM review_leases WHERE review_id = ?", (row["id"],)
        ).fetchall()
        own = [one["until"] for one in leases if one["holder"] == caller.token_id]
        if not own:
            raise Problem(409, "no-lease", f"you hold no lease of {row['id']}; lease reviews first")
        now = self._clock()
        others = sum(one["holder"] != caller.token_id and one["until"] > now for one in leases)
        if own[0] <= now and num_answers + others >= row["num_needed"]:
            raise Problem(
                409,
                "lease-lost",
                f"your lease of {row['id']} ended, and others have it; lease anew",
            )

    def _settle(
        self, connection: sqlite3.Connection, row: sqlite3.Row, labels: Sequence[str | None]
    ) -> None:
        """End a review whose answers are enough; send one whose two disagree to a third person."""
        if len(labels) < row["num_needed"]:
            return
        if len(labels) == 2 and labels[0] != labels[1]:
            connection.execute("UPDATE reviews SET num_needed = 3 WHERE id = ?", (row["id"],))
            return
        ((label, votes),) = Counter(labels).most_common(1)
        connection.execute(
            "UPDATE reviews SET state = 'done', outcome = ?, completed_at = ? WHERE id = ?",
            (label if 2 * votes > len(labels) else None, utc(self._clock()), row["id"]),
        )


_LEASABLE = """
SELECT reviews.* FROM reviews
LEFT JOIN review_leases AS own ON own.review_id = id AND own.holder = :holder AND own.until > :now
WHERE state = 'open'
AND NOT EXISTS (SELECT 1 FROM review_answers WHERE review_id = id AND holder = :holder)
AND (own.until IS NOT NULL OR num_needed >
    (SELECT COUNT(*) FROM review_answers WHERE review_id = id)
    + (SELECT COUNT(*) FROM review_leases WHERE review_id = id AND until > :now))
ORDER BY own.until IS NULL, due, seq LIMIT :count
"""


def _conditions(**wanted: str | None) -> tuple[str, list[str]]:
    given = {name: value for name, value in wanted.items() if value is not None}
    return " AND ".join(f"{name} = ?" for name in given) or "1", list(given.values())


def _row_of(connection: sqlite3.Connection, review_id: str) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM reviews WHERE id = ?", (review_id,)
    ).fetchone()
    if row is None:
        raise Problem(404, "no-such-review", f"there is no review {review_id!r}; list them")
    return row
