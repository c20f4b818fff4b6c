"""Routes of reviews: the queue, leases, answers, figures, labels back."""

import json
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field, model_validator

from calibrate.service.decisions.decisions import StoredDecision
from calibrate.service.decisions.record import DecisionRecord
from calibrate.service.problems import Problem
from calibrate.service.reviews.agreement import ReviewStats
from calibrate.service.reviews.labels import LabelledClip, label_rows
from calibrate.service.reviews.review import Review, ReviewKind, ReviewState
from calibrate.service.reviews.reviews import MAX_LEASE_S
from calibrate.service.reviews.risk import RiskWatch, watch_risk
from calibrate.service.routes.context import MayReview, ServiceDep, problems
from calibrate.service.service import Service
from wire.config import Config

router = APIRouter(prefix="/v1/reviews", tags=["reviews"])

ReviewId = Annotated[str, Path(min_length=1, max_length=64)]
_AT_ONCE = 500


class ReviewWithDecision(Review):
    """Review, and the decision that it is about."""

    decision: DecisionRecord


class ReviewPage(Config):
    """Page of reviews."""

    reviews: tuple[Review, ...]
    next_cursor: str | None
    """Of the next page; null: this is the last."""


class LeasedReviews(Config):
    """Reviews that were leased to the caller, the most urgent first."""

    reviews: tuple[ReviewWithDecision, ...]


class RiskWatches(Config):
    """Risk of automatic decisions, by promise."""

    risks: tuple[RiskWatch, ...]


class LeaseOrder(Config):
    """What a person takes on."""

    n: int = Field(default=1, ge=1, le=100)
    """Reviews; those that the person holds already count."""
    seconds: float = Field(default=600.0, ge=1, le=MAX_LEASE_S, allow_inf_nan=False)
    """Time for which nobody else gets them."""


class Answer(Config):
    """Answer of a person.

    Example:
        Answer(label="normal", note="a shadow")
    """

    label: str | None = Field(default=None, max_length=200)
    """One of the classifier's; null: it cannot be told."""
    verdict: Literal["confirm", "overturn", "cannot_tell"] | None = None
    """The same in other words, checked against ``label``; may be left out."""
    note: str | None = Field(default=None, max_length=4000)

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if (self.verdict == "cannot_tell") != (self.label is None) and self.verdict is not None:
            raise ValueError("verdict cannot_tell goes with label null, the others with a label")
        return self


@router.get("")
async def every(
    service: ServiceDep,
    _caller: MayReview,
    state: Annotated[ReviewState, Query()] = "open",
    kind: Annotated[ReviewKind | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
) -> ReviewPage:
    """Reviews: those that wait in the order of the queue, those that ended newest first."""
    reviews, after = await service.reviews.page(state, kind, limit, cursor)
    return ReviewPage(reviews=tuple(reviews), next_cursor=None if after is None else str(after))


@router.post("/lease")
async def lease(order: LeaseOrder, service: ServiceDep, caller: MayReview) -> LeasedReviews:
    """Lease reviews, the most urgent first. Until the lease ends nobody else gets them, but those
    that two people do, each without the other's answer. Each person needs a token of their own."""
    leased = await service.reviews.lease(caller, order.n, order.seconds)
    stored = await service.decisions.of([one.decision_id for one in leased])
    return LeasedReviews(
        reviews=tuple(
            ReviewWithDecision(**one.model_dump(), decision=stored[one.decision_id].record)
            for one in leased
        )
    )


@router.get("/stats")
async def stats(service: ServiceDep, _caller: MayReview) -> ReviewStats:
    """Figures: how many wait, how often people overturn, how far two of them agree."""
    return await service.reviews.stats()


@router.get("/risk")
async def risk(service: ServiceDep, _caller: MayReview) -> RiskWatches:
    """Errors of automatic decisions, from audits that people answered, beside what each threshold
    and each policy with a precision promised; with an alarm that may be looked at any time."""
    audits = [one for one in await service.reviews.done() if one.kind == "audit"]
    wrong: dict[tuple[str, int, int], list[bool]] = {}
    for start in range(0, len(audits), _AT_ONCE):
        some = audits[start : start + _AT_ONCE]
        stored = await service.decisions.of([one.decision_id for one in some])
        for review in some:
            for promise in _promises(stored[review.decision_id].record):
                wrong.setdefault(promise, []).append(review.overturned is True)
    watches = [await _watch(service, promise, answers) for promise, answers in wrong.items()]
    return RiskWatches(risks=tuple(one for one in watches if one is not None))


@router.get(
    "/labels",
    response_class=Response,
    responses={
        200: {
            "description": "JSON lines",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
            "headers": {
                "X-Labels-Without-Clip": {
                    "description": "Labels left out, because their clip is not kept any longer",
                    "schema": {"type": "integer"},
                }
            },
        }
    },
)
async def labels(
    service: ServiceDep,
    _caller: MayReview,
    split: Annotated[
        Literal["train", "cal", "val"],
        Query(description="Split of the rows; test clips are never added to."),
    ] = "cal",
) -> Response:
    """Labels that people gave: a manifest (JSON lines) that ``deepintuit`` reads, with weights."""
    done = await service.reviews.done()
    clips: dict[str, LabelledClip] = {}
    for start in range(0, len(done), _AT_ONCE):
        ids = [one.decision_id for one in done[start : start + _AT_ONCE]]
        clips |= await _clips(service, await service.decisions.of(ids))
    rows = label_rows(done, lambda review: clips.get(review.decision_id), split)
    missing = sum(one.decision_id not in clips for one in done)
    return Response(
        "".join(json.dumps(row) + "\n" for row in rows),
        media_type="application/x-ndjson",
        headers={"X-Labels-Without-Clip": str(missing)},
    )


@router.get("/{review_id}", responses=problems(404))
async def one(review_id: ReviewId, service: ServiceDep, _caller: MayReview) -> ReviewWithDecision:
    """One review, with its decision; answers are shown once it has ended."""
    review = await service.reviews.get(review_id)
    stored = await service.decisions.get(review.decision_id)
    return ReviewWithDecision(**review.model_dump(), decision=stored.record)


@router.post("/{review_id}/complete", responses=problems(404, 409))
async def complete(
    review_id: ReviewId, answer: Answer, service: ServiceDep, caller: MayReview
) -> Review:
    """Answer a leased review: the true label, or that it cannot be told. An answer is never
    changed; the same one again is no fault."""
    review = await service.reviews.get(review_id)
    names = (await service.decisions.get(review.decision_id)).record.probabilities
    if answer.label is not None and answer.label not in names:
        raise Problem(
            422,
            "no-such-label",
            f"there is no label {answer.label!r}; expected one of {list(names)}, or null",
        )
    if answer.verdict in ("confirm", "overturn"):
        meant = "confirm" if answer.label == review.label else "overturn"
        if answer.verdict != meant:
            raise Problem(
                422,
                "verdict-mismatch",
                f"label {answer.label!r} would {meant} the classifier's {review.label!r}, and the "
                f"verdict is {answer.verdict!r}; leave one out",
            )
    return await service.reviews.complete(
        review_id, caller, label=answer.label, note=answer.note or ""
    )


@router.post("/{review_id}/release", responses=problems(404))
async def release(review_id: ReviewId, service: ServiceDep, caller: MayReview) -> Review:
    """Give a lease back, for somebody else."""
    return await service.reviews.release(review_id, caller)


def _promises(record: DecisionRecord) -> list[tuple[str, int, int]]:
    """What was promised of an automatic decision: by policies (id, version, classifier) that fired,
    or by the classifier's own threshold (without an id)."""
    classifier = record.versions.classifier
    if record.decided_by == "threshold":
        return [("", 0, classifier)]
    return [
        (one.id, one.version, classifier)
        for one in record.policies
        if one.fires and one.action != "review"
    ]


async def _watch(
    service: Service, promise: tuple[str, int, int], wrong: list[bool]
) -> RiskWatch | None:
    """Watch of a promise; None for a policy that promised no precision."""
    name, version, number = promise
    classifier = await service.database.run(lambda: service.registry.get(number))
    if not name:
        threshold = classifier.calibration.thresholds[0]
        return watch_risk(
            wrong,
            promise="threshold",
            classifier=number,
            max_error=threshold.max_error,
            confidence=threshold.confidence,
        )
    (policy,) = await service.policies.at([(name, version)], classifier)
    if policy.policy.target != "precision":
        return None
    return watch_risk(
        wrong,
        promise=f"policy {name}@{version}",
        classifier=number,
        max_error=1 - policy.policy.goal,
        confidence=policy.policy.confidence,
    )


async def _clips(service: Service, stored: dict[str, StoredDecision]) -> dict[str, LabelledClip]:
    """Clips of decisions that are still there, by the decision's id."""
    clips = {}
    for name, one in stored.items():
        shown = one.record.clip
        path = await service.intake.place_of(
            video_hash=shown.video_hash, source=shown.source, name=shown.name
        )
        if path is not None:
            clips[name] = LabelledClip(
                video=str(path),
                classifier=one.record.versions.classifier,
                window=shown.window,
                text=one.inputs.text,
                columns=one.inputs.columns,
            )
    return clips
