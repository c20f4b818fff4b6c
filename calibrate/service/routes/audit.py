"""Routes of the audit log: its rows, and whether they are as they were written. Scope admin."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from calibrate.service.problems import Problem
from calibrate.service.routes.context import MayAdmin, ServiceDep
from calibrate.service.state.audit import AuditRow, BrokenRow, Head

router = APIRouter(prefix="/v1/audit", tags=["audit"])

RowNumber = Annotated[int, Query(ge=1, le=2**63 - 1)]
Filter = Annotated[str | None, Query(max_length=500)]


class AuditPage(BaseModel):
    """Page of the audit log, from the newest row on."""

    rows: list[AuditRow]
    next_cursor: str | None
    """Give it as ``cursor`` for the next page; none: this is the last."""


class Verification(BaseModel):
    """Result of reading the whole log."""

    whole: bool
    first_broken: BrokenRow | None
    head: Head
    """Number and hash of the last row. Keep it elsewhere, and give it to a later verification: it
    then shows also rows that were cut off, or all written anew."""


@router.get("")
async def page(
    service: ServiceDep,
    _caller: MayAdmin,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: RowNumber | None = None,
    actor: Filter = None,
    action: Filter = None,
    subject: Filter = None,
) -> AuditPage:
    """Rows of the audit log, newest first. ``actor``, ``action``, ``subject``: only these."""
    rows = await service.database.run(
        lambda: service.audit.page(
            limit=limit + 1, before=cursor, actor=actor, action=action, subject=subject
        )
    )
    more = len(rows) > limit
    return AuditPage(rows=rows[:limit], next_cursor=str(rows[limit - 1].id) if more else None)


@router.get("/verify")
async def verify(
    service: ServiceDep,
    _caller: MayAdmin,
    noted_id: RowNumber | None = None,
    noted_hash: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$")] = None,
) -> Verification:
    """Read the whole log, and say whether each row follows from the one before. ``noted_id`` and
    ``noted_hash``: a head from before, which must still be in it."""
    if (noted_id is None) != (noted_hash is None):
        raise Problem(
            422, "half-a-head", "got one of noted_id and noted_hash; expected both, or neither"
        )
    noted = Head(id=noted_id, hash=noted_hash) if noted_id and noted_hash else None
    head = await service.database.run(service.audit.head)
    broken = await service.database.run(lambda: service.audit.verify(noted))
    return Verification(whole=broken is None, first_broken=broken, head=head)
