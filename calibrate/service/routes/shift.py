"""Routes of shift: are served traces drawn like those that a classifier was calibrated on?"""

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Path as InPath
from pydantic import BaseModel

from calibrate.service.routes.context import MayAdmin, MayRead, ServiceDep, problems
from calibrate.service.service import Service

router = APIRouter(prefix="/v1/classifiers", tags=["shift"])

Ref = Annotated[str, InPath(max_length=32, description="A version's number, or an alias")]


class FeatureOfShift(BaseModel):
    """Test of one feature of traces."""

    feature: str
    log_e_value: float
    """ln of the evidence against served traces being drawn like archived ones."""
    log_limit: float | None
    """It alarms at this; null: it is reported only."""
    effect: str | None
    """In words; null before any trace was served."""


class Shift(BaseModel):
    """State of a version's monitor of shift."""

    classifier: int
    num_served: int
    """Traces since the start, or the last acknowledgement."""
    num_acknowledged: int
    level: float
    """Highest probability of a false alarm, over all time until an acknowledgement."""
    alarm: str | None
    """While it stands, every decision is for review."""
    features: list[FeatureOfShift]


@router.get("/{ref}/shift", responses=problems(404))
async def shift(ref: Ref, service: ServiceDep, _caller: MayRead) -> Shift:
    """State of the test of shift."""
    version, feed = await service.serving.shift_of(ref)
    return Shift(classifier=version, **await feed.state())


@router.post("/{ref}/shift/acknowledge", responses=problems(404, 409))
async def acknowledge(ref: Ref, service: ServiceDep, caller: MayAdmin) -> Shift:
    """End the alarm, because someone has looked at it, and begin a new test. Answers with the state
    before."""
    version, feed = await service.serving.shift_of(ref)
    before = await feed.acknowledge()
    await service.database.run(lambda: _noted(service, caller.name, version, before))
    return Shift(classifier=version, **before)


def _noted(service: Service, actor: str, version: int, before: dict[str, Any]) -> None:
    with service.database.write() as connection:
        service.audit.append(
            connection,
            actor,
            "shift.acknowledged",
            f"classifiers/{version}",
            {"alarm": before["alarm"], "num_served": before["num_served"]},
        )
