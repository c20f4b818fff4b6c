"""Routes of decisions: read, list, explain, replay."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from calibrate.service.caller import Caller
from calibrate.service.decisions.controls import control_shown
from calibrate.service.decisions.decisions import MAX_PAGE, DecisionFilter, StoredDecision
from calibrate.service.decisions.explain import AUTOMATED, Explanation, explain, replayed
from calibrate.service.decisions.outcome import outcome_of
from calibrate.service.decisions.record import DecisionRecord
from calibrate.service.policies.policy import PolicyAction
from calibrate.service.problems import Problem
from calibrate.service.protocols import ClipToClassify
from calibrate.service.reviews.review import Review
from calibrate.service.routes.context import MayRead, ServiceDep, problems
from calibrate.service.service import Service
from calibrate.service.state.audit import utc_text
from wire.config import Config

router = APIRouter(prefix="/v1/decisions", tags=["decisions"])

DecisionId = Annotated[str, Path(min_length=1, max_length=64)]
Text = Annotated[str, Field(min_length=1, max_length=400)]
ControlView = Literal["shuffled", "reversed", "blank"]


class DecisionPage(Config):
    """Page of decisions, newest first."""

    decisions: tuple[DecisionRecord, ...]
    next_cursor: str | None
    """Of the next page; null: this is the last."""


class DecisionWithReview(DecisionRecord):
    """Decision, and what became of its review."""

    review: Review | None = None


@router.get("")
async def every(
    service: ServiceDep,
    _caller: MayRead,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=64)] = None,
    label: Annotated[Text | None, Query()] = None,
    decision: Annotated[PolicyAction | None, Query()] = None,
    classifier: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    video_hash: Annotated[Text | None, Query()] = None,
    sample_id: Annotated[Text | None, Query()] = None,
    since: Annotated[
        datetime | None, Query(description="Made then or later; UTC, unless it says otherwise.")
    ] = None,
    until: Annotated[
        datetime | None, Query(description="Made before; UTC, unless it says otherwise.")
    ] = None,
) -> DecisionPage:
    """Decisions that meet all conditions, newest first."""
    wanted = DecisionFilter(
        label=label,
        decision=decision,
        classifier=classifier,
        video_hash=video_hash,
        sample_id=sample_id,
        since=_utc(since),
        until=_utc(until),
    )
    records, after = await service.decisions.page(wanted, limit, cursor)
    return DecisionPage(decisions=tuple(records), next_cursor=after)


def _utc(at: datetime | None) -> str | None:
    """A time as decisions have it."""
    if at is None:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    try:
        return utc_text(at)
    except OverflowError as error:  # the year 1 or 9999, in another zone
        raise Problem(
            422, "unusable-value", f"{at} has no time in UTC; give a later one"
        ) from error


@router.get("/{decision_id}", responses=problems(404))
async def one(decision_id: DecisionId, service: ServiceDep, _caller: MayRead) -> DecisionWithReview:
    """One decision, with its review where it has one."""
    stored = await service.decisions.get(decision_id)
    review = await service.reviews.of_decision(decision_id)
    return DecisionWithReview(**stored.record.model_dump(), review=review)


@router.get("/{decision_id}/explain", responses=problems(404, 409, 410))
async def explained(
    decision_id: DecisionId,
    service: ServiceDep,
    caller: MayRead,
    replay: Annotated[
        bool, Query(description="Ask the engine again about the kept clip, too.")
    ] = False,
    control: Annotated[
        ControlView | None, Query(description="Ask about such a view of the clip, too.")
    ] = None,
) -> Explanation:
    """Explain a decision: recompute it from what is kept, to equal probabilities. ``replay`` and
    ``control`` take a place in the queue, as a clip does; 409 if its classifier is not loaded, 410
    if its clip is not kept any longer."""
    stored = await service.decisions.get(decision_id)
    record = stored.record
    classifier = await service.database.run(
        lambda: service.registry.get(record.versions.classifier)
    )
    policies = await service.policies.at(
        [(one.id, one.version) for one in record.policies], classifier
    )
    decided_by, outcome = _people(await service.reviews.of_decision(decision_id), record)
    explanation = explain(stored, classifier, policies, decided_by=decided_by, outcome=outcome)
    if not (replay or control):
        return explanation
    return await _asked_again(service, stored, explanation, caller, replay=replay, view=control)


async def _asked_again(
    service: Service,
    stored: StoredDecision,
    explanation: Explanation,
    caller: Caller,
    *,
    replay: bool,
    view: ControlView | None,
) -> Explanation:
    """The explanation with what the engine says now."""
    record = stored.record
    clip = await service.intake.again(
        video_hash=record.clip.video_hash, source=record.clip.source, name=record.clip.name
    )
    answered = await service.serving.classify(
        ClipToClassify(
            id=record.sample_id,
            path=clip.path,
            window=record.clip.window,
            columns=stored.inputs.columns,
            text=stored.inputs.text,
        ),
        classifier=str(record.versions.classifier),
        view=view,
        caller=caller.token_id,
        watched=False,
    )
    calibration = answered.classifier.calibration
    own = outcome_of(answered.evidence, calibration).decision
    shown = control_shown(answered.control, own, calibration, view)
    return explanation.model_copy(
        update={
            "control": shown or explanation.control,
            "replay": replayed(record, answered.evidence, calibration) if replay else None,
        }
    )


def _people(review: Review | None, record: DecisionRecord) -> tuple[str, str | None]:
    """Who decided, in words, and the label that people gave."""
    if review is not None and review.state == "done":
        names = ", ".join(dict.fromkeys(one.reviewer for one in review.answers))
        return f"people: {names}", review.outcome
    if record.decision == "review":
        return "nobody yet: it waits for a person", None
    return AUTOMATED, None
