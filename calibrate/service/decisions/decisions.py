"""Decisions: made from what an engine answered, kept for good, read again.

    Answered + AdmittedClip -> outcome (calibrate/service/decisions/outcome.py) -> DecisionRecord
        -> one row, its audit row and, where a person must look, a review: one transaction

``decide`` returns once all of it is on disk. Rows are never changed and never removed.
"""

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Counter

from calibrate.classifier import CALIBRATION_FILE
from calibrate.decision import Evidence
from calibrate.service.caller import Caller
from calibrate.service.decisions.controls import control_shown
from calibrate.service.decisions.group_commit import GroupCommit
from calibrate.service.decisions.outcome import Outcome, outcome_of
from calibrate.service.decisions.record import (
    ClipShown,
    DecisionRecord,
    DecisionVersions,
    ReviewReason,
    Seconds,
    evidence_from_json,
    evidence_to_json,
)
from calibrate.service.intake.clips import AdmittedClip
from calibrate.service.metrics import Metrics
from calibrate.service.policies.policies import Policies
from calibrate.service.problems import Problem
from calibrate.service.protocols import NewReview, ReviewQueue
from calibrate.service.serving.serving import Answered
from calibrate.service.state.audit import Audit, utc_now
from calibrate.service.state.database import Database, Schema
from calibrate.service.state.registered import RegisteredClassifier
from wire.types import stable_hash

SCHEMA = Schema(
    "decisions",
    (
        """
CREATE TABLE decisions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL,
    sample_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    video_hash TEXT NOT NULL,
    label TEXT NOT NULL,
    decision TEXT NOT NULL,
    classifier INTEGER NOT NULL,
    record TEXT NOT NULL,
    evidence TEXT NOT NULL,
    inputs TEXT NOT NULL
);
CREATE INDEX decisions_of_clip ON decisions (video_hash);
CREATE INDEX decisions_of_sample ON decisions (sample_id);
CREATE INDEX decisions_of_request ON decisions (request_id);
CREATE INDEX decisions_of_classifier ON decisions (classifier, seq);
CREATE INDEX decisions_of_label ON decisions (label, seq);
CREATE INDEX decisions_of_action ON decisions (decision, seq);
CREATE TRIGGER decisions_never_change BEFORE UPDATE ON decisions
BEGIN SELECT RAISE(ABORT, 'decisions are never changed'); END;
CREATE TRIGGER decisions_never_go BEFORE DELETE ON decisions
BEGIN SELECT RAISE(ABORT, 'decisions are never removed'); END;
""",
    ),
)
MAX_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionInputs:
    """What a replay needs of a request, beside the clip."""

    columns: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDecision:
    """Decision as it is kept."""

    record: DecisionRecord
    evidence: Evidence
    inputs: DecisionInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionFilter:
    """Conditions of a page; None: any."""

    label: str | None = None
    decision: str | None = None
    classifier: int | None = None
    video_hash: str | None = None
    sample_id: str | None = None
    since: str | None = None
    until: str | None = None

    def where(self) -> tuple[str, list[Any]]:
        """Condition in SQL, and its values."""
        parts: list[tuple[str, Any]] = [
            (f"{name} = ?", getattr(self, name))
            for name in ("label", "decision", "classifier", "video_hash", "sample_id")
        ]
        parts += [("created_at >= ?", self.since), ("created_at < ?", self.until)]
        given = [(text, value) for text, value in parts if value is not None]
        return " AND ".join(text for text, _ in given) or "1", [value for _, value in given]


@dataclass(frozen=True, slots=True)
class _Row:
    record: DecisionRecord
    evidence: str
    inputs: str
    review: NewReview | None


class Decisions:
    """Decisions of the service."""

    def __init__(
        self,
        database: Database,
        audit: Audit,
        policies: Policies,
        reviews: ReviewQueue,
        *,
        audit_share: float,
    ) -> None:
        """``audit_share``: share of the automatic decisions that people see, drawn at random."""
        self._database, self._audit = database, audit
        self._policies, self._reviews = policies, reviews
        self._audit_share = audit_share
        self._calibrators: dict[int, str] = {}
        self._made: Counter | None = None
        self._commit: GroupCommit[_Row] = GroupCommit(
            lambda rows: database.run(lambda: self._write(rows))
        )

    def add_metrics(self, metrics: Metrics) -> None:
        """Count decisions by what was decided, and by classifier."""
        self._made = Counter(
            "deepintuit_decisions",
            "Decisions that are on disk.",
            ("decision", "decided_by", "classifier"),
            registry=metrics.registry,
        )

    @property
    def num_writes(self) -> int:
        """Transactions so far: many decisions share one."""
        return self._commit.num_writes

    async def decide(
        self,
        answered: Answered,
        clip: AdmittedClip,
        *,
        sample_id: str,
        window: tuple[float, float] | None,
        columns: Mapping[str, str],
        caller: Caller,
        request_id: str,
        text: str | None = None,
        view: str | None = None,
    ) -> DecisionRecord:
        """Decide about a clip that was answered; the decision is on disk when this returns.

        ``view``: of the control that ``answered`` holds.
        """
        start = time.perf_counter()
        policies = await self._policies.active(answered.classifier)
        calibration = answered.classifier.calibration
        outcome = outcome_of(answered.evidence, calibration, policies, answered.alarm)
        decision_id = f"dec_{secrets.token_hex(12)}"
        seen = outcome.action == "review" or is_drawn(decision_id, self._audit_share)
        record = DecisionRecord(
            id=decision_id,
            created_at=utc_now(),
            sample_id=sample_id,
            clip=ClipShown(
                video_hash=clip.video_hash,
                name=clip.name,
                source=clip.source,
                window=window,
                frames=answered.evidence.frames,
            ),
            **_decided(outcome),
            trace=answered.evidence.trace,
            votes=None if answered.evidence.votes is None else dict(answered.evidence.votes),
            control=control_shown(answered.control, outcome.decision, calibration, view),
            versions=self._versions(answered.classifier),
            review_id=f"rev_{secrets.token_hex(12)}" if seen else None,
            by=caller.name,
            request_id=request_id,
            seconds=_seconds(answered, time.perf_counter() - start),
        )
        inputs = DecisionInputs(columns=dict(columns), text=text)
        evidence = evidence_to_json(answered.evidence)
        await self._commit.put(_Row(record, evidence, _inputs_json(inputs), self._review(record)))
        if self._made is not None:
            number = record.versions.classifier
            self._made.labels(record.decision, record.decided_by, number).inc()
        return record

    async def get(self, decision_id: str) -> StoredDecision:
        """One decision. Problem 404 if there is none."""
        rows = await self._database.run(lambda: self._select("id = ?", [decision_id], 1))
        if not rows:
            raise Problem(
                404, "no-such-decision", f"there is no decision {decision_id!r}; list them"
            )
        return _stored(rows[0])

    async def page(
        self, wanted: DecisionFilter, limit: int, cursor: str | None
    ) -> tuple[list[DecisionRecord], str | None]:
        """Decisions that meet all conditions, newest first, and the cursor of the next page; None:
        this is the last. Problem 422 for a cursor that is none."""
        where, values = wanted.where()
        if cursor is not None:
            where, values = f"{where} AND seq < ?", [*values, _sequence(cursor)]
        rows = await self._database.run(lambda: self._select(where, values, limit + 1))
        records = [DecisionRecord.model_validate_json(row["record"]) for row in rows[:limit]]
        more = len(rows) > limit
        return records, str(rows[limit - 1]["seq"]) if more else None

    async def latest(self, classifier: int, limit: int) -> list[StoredDecision]:
        """Newest decisions of a classifier version."""
        rows = await self._database.run(lambda: self._select("classifier = ?", [classifier], limit))
        return [_stored(row) for row in rows]

    async def of_request(self, request_id: str) -> DecisionRecord | None:
        """The decision that was made for a request, so that one asked again after a kill has no
        second one; None: there is none."""
        rows = await self._database.run(lambda: self._select("request_id = ?", [request_id], 1))
        return DecisionRecord.model_validate_json(rows[0]["record"]) if rows else None

    async def of(self, ids: Sequence[str]) -> dict[str, StoredDecision]:
        """Decisions by id, those that there are."""
        places = ", ".join("?" * len(ids))
        rows = await self._database.run(lambda: self._select(f"id IN ({places})", ids, len(ids)))
        return {row["id"]: _stored(row) for row in rows}

    async def close(self) -> None:
        """Wait for rows that are being written."""
        await self._commit.close()

    def _versions(self, classifier: RegisteredClassifier) -> DecisionVersions:
        if classifier.version not in self._calibrators:
            content = (classifier.path / CALIBRATION_FILE).read_bytes()
            # as `deepintuit classify` gives it
            self._calibrators[classifier.version] = hashlib.sha256(content).hexdigest()[:12]
        return DecisionVersions(
            classifier=classifier.version,
            classifier_hash=classifier.hash,
            policy=classifier.policy_version,
            calibrator=self._calibrators[classifier.version],
        )

    def _review(self, record: DecisionRecord) -> NewReview | None:
        if record.review_id is None:
            return None
        audited = record.decision != "review"
        return NewReview(
            id=record.review_id,
            decision_id=record.id,
            video_hash=record.clip.video_hash,
            label=record.label,
            kind="audit" if audited else "review",
            reasons=tuple(one.code for one in record.reasons),
            weight=1 / self._audit_share if audited else 1.0,
            created_at=record.created_at,
        )

    def _select(self, where: str, values: Sequence[Any], limit: int) -> list[sqlite3.Row]:
        with self._database.read() as connection:
            return connection.execute(
                f"SELECT * FROM decisions WHERE {where} ORDER BY seq DESC LIMIT ?",
                [*values, limit],
            ).fetchall()

    def _write(self, rows: Sequence[_Row]) -> None:
        with self._database.write() as connection:
            for row in rows:
                self._insert(connection, row)
        for row in rows:
            if row.review is not None:
                self._reviews.opened(row.review)

    def _insert(self, connection: sqlite3.Connection, row: _Row) -> None:
        record, text = row.record, row.record.model_dump_json()
        connection.execute(
            "INSERT INTO decisions (id, created_at, sample_id, request_id, video_hash, label, "
            "decision, classifier, record, evidence, inputs) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.id,
                record.created_at,
                record.sample_id,
                record.request_id,
                record.clip.video_hash,
                record.label,
                record.decision,
                record.versions.classifier,
                text,
                row.evidence,
                row.inputs,
            ),
        )
        self._audit.append(
            connection,
            record.by,
            "decision.made",
            f"decisions/{record.id}",
            {
                "label": record.label,
                "decision": record.decision,
                "classifier": record.versions.classifier,
                "sha256": hashlib.sha256((text + row.evidence).encode()).hexdigest(),
            },
        )
        if row.review is not None:
            self._reviews.open(connection, row.review)


def _decided(outcome: Outcome) -> dict[str, Any]:
    """Fields of a record that follow from its outcome."""
    own = outcome.decision
    return {
        "label": own.label,
        "confidence": own.confidence,
        "probabilities": own.probabilities,
        "prediction_set": own.prediction_set,
        "decision": outcome.action,
        "decided_by": outcome.decided_by,
        "reasons": tuple(ReviewReason(code=one.code, text=one.text) for one in outcome.reasons),
        "policies": outcome.policies,
    }


def _seconds(answered: Answered, own: float) -> Seconds:
    total = answered.queue_s + answered.engine_s + own
    return Seconds(
        queue=round(answered.queue_s, 4), engine=round(answered.engine_s, 4), total=round(total, 4)
    )


def is_drawn(decision_id: str, share: float) -> bool:
    """Whether an automatic decision is among those that people see: by a hash of its random id, so
    that a replay draws the same."""
    return int(stable_hash("audit", decision_id)[:16], 16) < share * 2**64


def _inputs_json(inputs: DecisionInputs) -> str:
    return json.dumps({"columns": dict(inputs.columns), "text": inputs.text}, allow_nan=False)


def _stored(row: sqlite3.Row) -> StoredDecision:
    record = DecisionRecord.model_validate_json(row["record"])
    return StoredDecision(
        record=record,
        evidence=evidence_from_json(row["evidence"], record.trace),
        inputs=DecisionInputs(**json.loads(row["inputs"])),
    )


def _sequence(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise Problem(
            422, "bad-cursor", f"{cursor[:40]!r} is no cursor; take next_cursor of the last page"
        )
    return int(cursor)
