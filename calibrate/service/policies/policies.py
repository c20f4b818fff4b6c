"""Policies of the service: immutable versions, and their thresholds for each classifier.

    NewPolicy -> version on disk -> threshold derived per classifier, kept with n and bound
    classifier -> active -> ActivePolicy of each policy's newest version

A threshold is derived once and kept: what a decision compared with can be read for ever.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from calibrate.classifier import SPLIT_FOLDER
from calibrate.service.caller import Caller
from calibrate.service.policies.policy import ActivePolicy, NewPolicy, Policy
from calibrate.service.problems import Problem
from calibrate.service.state.audit import Audit, utc_now
from calibrate.service.state.database import Database, Schema
from calibrate.service.state.registered import RegisteredClassifier
from calibrate.thresholds.held_out import HeldOut
from calibrate.thresholds.label_threshold import LabelThreshold, derive_threshold
from wire.errors import DataError

SCHEMA = Schema(
    "policies",
    (
        """
CREATE TABLE policies (
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    policy TEXT NOT NULL,
    PRIMARY KEY (id, version)
);
CREATE TABLE policy_thresholds (
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    classifier INTEGER NOT NULL,
    threshold TEXT NOT NULL,
    PRIMARY KEY (id, version, classifier),
    FOREIGN KEY (id, version) REFERENCES policies (id, version)
);
CREATE TRIGGER policies_never_change BEFORE UPDATE ON policies
BEGIN SELECT RAISE(ABORT, 'a policy never changes; make a new version'); END;
CREATE TRIGGER policies_never_go BEFORE DELETE ON policies
BEGIN SELECT RAISE(ABORT, 'policies are never removed; retire it'); END;
CREATE TRIGGER policy_thresholds_never_change BEFORE UPDATE ON policy_thresholds
BEGIN SELECT RAISE(ABORT, 'a derived threshold never changes'); END;
CREATE TRIGGER policy_thresholds_never_go BEFORE DELETE ON policy_thresholds
BEGIN SELECT RAISE(ABORT, 'derived thresholds are never removed'); END;
""",
    ),
)


class Policies:
    """Policies of the service."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database, self._audit = database, audit
        self._active: dict[int, tuple[ActivePolicy, ...]] = {}

    async def create(
        self, wanted: NewPolicy, caller: Caller, classifier: RegisteredClassifier | None
    ) -> Policy:
        """Make the next version of a policy, which is in force from then on.

        ``classifier``: the one that serves; Problem 422 for a label that it does not have.
        """
        if classifier is not None:
            refuse_label(wanted.label, classifier)
        policy = await self._database.run(lambda: self._append(wanted.model_dump(), caller))
        self._active = {}
        return policy

    async def retire(self, policy_id: str, caller: Caller) -> Policy:
        """End a policy with a last version that never fires. Problem 404 if there is none."""
        newest = (await self.versions(policy_id))[-1]
        if newest.retired:
            return newest
        values = newest.model_dump() | {"retired": True}
        policy = await self._database.run(lambda: self._append(values, caller))
        self._active = {}
        return policy

    async def newest(self) -> list[Policy]:
        """The newest version of each policy, by name, the retired ones too."""
        return await self._database.run(self._newest)

    async def versions(self, policy_id: str) -> list[Policy]:
        """All versions of a policy, in order. Problem 404 if there is none."""
        policies = await self._database.run(lambda: self._select("id = ?", [policy_id]))
        if not policies:
            raise Problem(404, "no-such-policy", f"there is no policy {policy_id!r}; list them")
        return policies

    async def active(self, classifier: RegisteredClassifier) -> tuple[ActivePolicy, ...]:
        """Policies in force, with their thresholds for a classifier, derived where that has not
        been done."""
        known = self._active  # a new one after each change: what was read before it is not kept
        active = known.get(classifier.version)
        if active is None:
            active = known[classifier.version] = await self._database.run(
                lambda: tuple(
                    self._with_threshold(policy, classifier)
                    for policy in self._newest()
                    if not policy.retired
                )
            )
        return active

    async def at(
        self, wanted: Sequence[tuple[str, int]], classifier: RegisteredClassifier
    ) -> tuple[ActivePolicy, ...]:
        """Named versions of policies, with their thresholds for a classifier."""

        def read() -> tuple[ActivePolicy, ...]:
            return tuple(
                self._with_threshold(policy, classifier)
                for name, version in wanted
                for policy in self._select("id = ? AND version = ?", [name, version])
            )

        return await self._database.run(read)

    async def preview(self, wanted: NewPolicy, classifier: RegisteredClassifier) -> ActivePolicy:
        """Threshold that a policy would have, without making it. Problem 422 for a label that the
        classifier does not have."""
        refuse_label(wanted.label, classifier)
        policy = Policy(
            **wanted.model_dump(), version=1, created_at=utc_now(), created_by="preview"
        )
        return await self._database.run(lambda: derived(policy, classifier))

    def _append(self, values: dict[str, Any], caller: Caller) -> Policy:
        with self._database.write() as connection:
            row = connection.execute(
                "SELECT MAX(version) AS version FROM policies WHERE id = ?", (values["id"],)
            ).fetchone()
            policy = Policy.model_validate(
                values
                | {
                    "version": (row["version"] or 0) + 1,
                    "created_at": utc_now(),
                    "created_by": caller.name,
                }
            )
            connection.execute(
                "INSERT INTO policies VALUES (?, ?, ?)",
                (policy.id, policy.version, policy.model_dump_json()),
            )
            self._audit.append(
                connection,
                caller.name,
                "policy.retired" if policy.retired else "policy.created",
                f"policies/{policy.id}",
                policy.model_dump(mode="json"),
            )
        return policy

    def _newest(self) -> list[Policy]:
        return self._select(
            "version = (SELECT MAX(version) FROM policies AS other WHERE other.id = policies.id)",
            [],
        )

    def _select(self, where: str, values: Sequence[Any]) -> list[Policy]:
        with self._database.read() as connection:
            rows = connection.execute(
                f"SELECT policy FROM policies WHERE {where} ORDER BY id, version", values
            ).fetchall()
        return [Policy.model_validate_json(row["policy"]) for row in rows]

    def _with_threshold(self, policy: Policy, classifier: RegisteredClassifier) -> ActivePolicy:
        """The kept threshold, or a new one, which is then kept."""
        key = (policy.id, policy.version, classifier.version)
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT threshold FROM policy_thresholds "
                "WHERE id = ? AND version = ? AND classifier = ?",
                key,
            ).fetchone()
        if row is not None:
            kept = LabelThreshold(**json.loads(row["threshold"]))
            return ActivePolicy(policy=policy, threshold=kept)
        active = derived(policy, classifier)
        if active.threshold is not None:
            with self._database.write() as connection:
                connection.execute(
                    "INSERT OR IGNORE INTO policy_thresholds VALUES (?, ?, ?, ?)",
                    (*key, json.dumps(asdict(active.threshold))),
                )
        return active


def derived(policy: Policy, classifier: RegisteredClassifier) -> ActivePolicy:
    """A policy with its threshold for a classifier, from the clips that it was published with."""
    if policy.label not in classifier.label_names:
        return _without(policy, f"the classifier has no label {policy.label!r}")
    try:
        scored = HeldOut.load(classifier.path)
    except DataError as error:
        return _without(policy, str(error))
    if scored is None:
        return _without(policy, _no_clips(classifier))
    calibration = classifier.calibration
    threshold = derive_threshold(
        scored,
        calibration.sets[0] if calibration.sets else None,
        label=policy.label,
        target=policy.target,
        goal=policy.goal,
        confidence=policy.confidence,
        alone=policy.alone,
    )
    return ActivePolicy(policy=policy, threshold=threshold)


def _no_clips(classifier: RegisteredClassifier) -> str:
    if (classifier.path / SPLIT_FOLDER).is_dir():
        return (
            "a label of the classifier was split, and no clip of its parts was held out; fit one "
            "to labelled clips of the parts"
        )
    return (
        "the classifier was published without its held-out clips, by an earlier version of this "
        "program; fit it anew"
    )


def refuse_label(label: str, classifier: RegisteredClassifier) -> None:
    """Raise Problem 422 for a label that a classifier does not have."""
    if label not in classifier.label_names:
        raise Problem(
            422,
            "no-such-label",
            f"classifier {classifier.version} has no label {label!r}; expected one of "
            f"{list(classifier.label_names)}",
        )


def _without(policy: Policy, why: str) -> ActivePolicy:
    return ActivePolicy(policy=policy, threshold=None, lacks=why)
