"""Review of a decision, as clients read it: what is asked of a person, and what people said.

Answers are shown once a review has ended: until then a second person must not know the first one's.
"""

import json
import sqlite3
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from wire.config import Config

ReviewState = Literal["open", "done"]
ReviewKind = Literal["review", "audit"]


class ReviewAnswer(Config):
    """Answer of one person."""

    reviewer: str
    label: str | None
    """Null: it cannot be told."""
    note: str
    answered_at: str


class Review(Config):
    """Review of one decision."""

    id: str
    decision_id: str
    video_hash: str
    label: str
    """That the classifier gave."""
    kind: ReviewKind
    """``review``: the decision waits for it; ``audit``: the decision was automatic, and drawn at
    random."""
    reasons: tuple[str, ...]
    """Codes of the decision's reasons."""
    priority: int
    """A level is worth an hour of waiting."""
    weight: float
    """Decisions that it stands for: 1 / share of the draw."""
    created_at: str
    state: ReviewState
    leased_until: str | None = None
    """End of the caller's lease, where it was just given."""
    outcome: str | None = None
    """Label of most answers; null: open, or it cannot be told."""
    overturned: bool | None = None
    """Whether the outcome is another label than the classifier's; null without an outcome."""
    completed_at: str | None = None
    answers: tuple[ReviewAnswer, ...] = Field(default=())
    """In their order; empty until the review has ended."""


def review_of(
    connection: sqlite3.Connection, row: sqlite3.Row, *, until: float | None = None
) -> Review:
    """Review of a row of the table; ``until``: end of the lease just given."""
    done, outcome = row["state"] == "done", row["outcome"]
    answers = answers_of(connection, row["id"]) if done else []
    return Review(
        **{name: row[name] for name in ("id", "decision_id", "video_hash", "label", "kind")},
        **{name: row[name] for name in ("priority", "weight", "created_at", "state", "outcome")},
        reasons=tuple(json.loads(row["reasons"])),
        leased_until=None if until is None else utc(until),
        overturned=None if outcome is None else outcome != row["label"],
        completed_at=row["completed_at"],
        answers=tuple(
            ReviewAnswer(**{name: one[name] for name in ReviewAnswer.model_fields})
            for one in answers
        ),
    )


def answers_of(connection: sqlite3.Connection, review_id: str) -> list[sqlite3.Row]:
    """Answers of a review, in their order."""
    return connection.execute(
        "SELECT * FROM review_answers WHERE review_id = ? ORDER BY place", (review_id,)
    ).fetchall()


def utc(seconds: float) -> str:
    """Time as text, UTC."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
