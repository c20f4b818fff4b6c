"""Parts that decide, over a database of their own, without HTTP and engines. (No test file.)"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibrate.calibration import Calibration
from calibrate.calibrator import Calibrator
from calibrate.decision import Evidence
from calibrate.risk import fit_threshold
from calibrate.service.caller import Caller, Scope
from calibrate.service.decisions import decisions as decisions_part
from calibrate.service.decisions.decisions import Decisions
from calibrate.service.decisions.record import DecisionRecord
from calibrate.service.intake.clips import AdmittedClip
from calibrate.service.intake.store import ClipStore
from calibrate.service.policies import policies as policies_part
from calibrate.service.policies.policies import Policies
from calibrate.service.policies.policy import NewPolicy
from calibrate.service.protocols import ClipFacts
from calibrate.service.reviews import reviews as reviews_part
from calibrate.service.reviews.reviews import Reviews
from calibrate.service.serving.serving import Answered
from calibrate.service.state import audit as audit_part
from calibrate.service.state import registry as registry_part
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database
from calibrate.service.state.registered import RegisteredClassifier
from calibrate.service.state.registry import Registry
from calibrate.thresholds.held_out import HeldOut, ScoredPart
from tests.calibrate.service.fakes import publish_tiny

NAMES = ("abnormal", "normal")


class Clock:
    """Clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def caller(name: str = "ada", *scopes: Scope) -> Caller:
    return Caller(token_id=f"tok_{name}", name=name, scopes=frozenset(scopes or ("admin",)))


def make_calibration(**changes: Any) -> Calibration:
    """Of the policy alone, with weight 1: logprobs of probabilities give these probabilities.
    Automatic from 0.9 on."""
    rows = np.linspace(0.5, 1, 400)
    threshold = fit_threshold(rows, rows >= 0.9, 0.1, start=0.9)
    values: dict[str, Any] = {
        "calibrator": Calibrator(label_names=NAMES, weights={"policy": 1.0}),
        "thresholds": (threshold,),
    }
    return Calibration(**{**values, **changes})


def make_held_out(num: int = 400) -> HeldOut:
    """Clips whose probabilities are right on average."""
    draw = np.random.default_rng(7)
    own = draw.beta(0.4, 0.4, size=2 * num)
    truth = (draw.random(2 * num) >= own).astype(int)
    rows = np.stack([own, 1 - own], axis=1)
    return HeldOut(
        label_names=NAMES,
        held_out=ScoredPart.of(truth[:num], rows[:num]),
        val=ScoredPart.of(truth[num:], rows[num:]),
    )


def make_policy(**changes: Any) -> NewPolicy:
    values: dict[str, Any] = {
        "id": "take-down",
        "label": "abnormal",
        "target": "precision",
        "goal": 0.9,
        "action": "auto",
        "owner": "trust and safety",
    }
    return NewPolicy(**{**values, **changes})


def make_evidence(abnormal: float = 0.95, **changes: Any) -> Evidence:
    """Evidence that the clip is abnormal with this probability."""
    values: dict[str, Any] = {
        "trace": "<think>seen</think><answer>abnormal</answer>",
        "parsed": True,
        "logprobs": {"policy": (float(np.log(abnormal)), float(np.log1p(-abnormal)))},
        "frames": (0, 8, 16),
        "trace_logprobs": (-0.1, -0.2),
    }
    return Evidence(**{**values, **changes})


def make_clip(name: str = "a.mp4") -> AdmittedClip:
    return AdmittedClip(
        path=Path("/nowhere") / name,
        video_hash=hashlib.sha256(name.encode()).hexdigest(),
        name=name,
        source="upload",
        facts=ClipFacts(seconds=1.0, frames=24, width=64, height=64, codec="h264"),
        keeper=None,
    )


@dataclass
class Deciding:
    """The parts, and what a test asks of them."""

    database: Database
    audit: Audit
    registry: Registry
    clips: ClipStore
    policies: Policies
    reviews: Reviews
    decisions: Decisions
    clock: Clock
    folder: Path

    def classifier(
        self,
        name: str = "tiny",
        calibration: Calibration | None = None,
        held_out: HeldOut | None = None,
    ) -> RegisteredClassifier:
        """A registered classifier of the policy alone."""
        published = publish_tiny(
            self.folder / "published",
            name,
            calibration=calibration or make_calibration(),
            held_out=held_out,
        )
        return self.registry.register(published.path, source="a test", by="a test")

    async def decide(
        self,
        classifier: RegisteredClassifier,
        evidence: Evidence | None = None,
        name: str = "a.mp4",
        **changes: Any,
    ) -> DecisionRecord:
        """A decision about evidence."""
        answered = {name: changes.pop(name) for name in ("alarm", "control") if name in changes}
        values: dict[str, Any] = {
            "sample_id": name,
            "window": None,
            "columns": {},
            "caller": caller(),
            "request_id": "req_1",
        }
        return await self.decisions.decide(
            Answered(classifier=classifier, evidence=evidence or make_evidence(), **answered),
            make_clip(name),
            **{**values, **changes},
        )


@contextmanager
def deciding(
    tmp_path: Path, *, audit_share: float = 0.0, double_share: float = 0.0
) -> Iterator[Deciding]:
    """The parts over a database in a folder."""
    schemas = [
        one.SCHEMA
        for one in (audit_part, registry_part, policies_part, decisions_part, reviews_part)
    ]
    database, clock = Database.open(tmp_path / "s.sqlite", schemas), Clock()
    audit = Audit(database)
    clips = ClipStore(tmp_path / "clips", 2**20)
    policies = Policies(database, audit)
    reviews = Reviews(database, audit, clips, double_share=double_share, clock=clock)
    try:
        yield Deciding(
            database,
            audit,
            Registry(database, audit, tmp_path / "classifiers"),
            clips,
            policies,
            reviews,
            Decisions(database, audit, policies, reviews, audit_share=audit_share),
            clock,
            tmp_path,
        )
    finally:
        database.close()


async def together(num: int, make: Callable[[int], Any]) -> list[Any]:
    """What ``num`` calls return that are made at once."""
    return list(await asyncio.gather(*[make(number) for number in range(num)]))
