"""Routes of fits: classifiers fitted to archived traces, as jobs beside the answers."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from calibrate.service.jobs.job import STATES, Job, JobClassifier, State
from calibrate.service.jobs.jobs import Jobs
from calibrate.service.jobs.new_fit import NewFit
from calibrate.service.routes.context import MayFit, MayRead, ServiceDep, problems

router = APIRouter(prefix="/v1/fits", tags=["fits"])
_LOG_BYTES = 64 * 1024


class FitProgress(BaseModel):
    """How far a fit is."""

    phase: str
    done: int | None
    """Parts of the phase; null: not counted."""
    total: int | None
    at: float
    """When its process said so, in seconds since 1970."""


class FitError(BaseModel):
    """What a fit failed with."""

    kind: str
    """Class of the error."""
    detail: str
    """What it says, and what to do."""


class Fit(BaseModel):
    """A fit that was asked for."""

    id: str
    status: State
    cancelling: bool
    """It was cancelled, and its process has not ended yet."""
    source: str
    """Path of the run or archive."""
    watch: bool
    """It is a standing one, which follows a run that trains."""
    order: NewFit
    """What was asked for."""
    created_at: str
    created_by: str
    started_at: str | None
    ended_at: str | None
    starts: int
    """Times that its process was started: after a kill or a stop it goes on from its checkpoint."""
    progress: FitProgress | None
    error: FitError | None
    classifier: int | None
    """The version that was registered last."""
    classifiers: tuple[JobClassifier, ...]
    """All that were, in their order."""


class Fits(BaseModel):
    """Page of fits, the newest first."""

    fits: list[Fit]
    next_cursor: str | None
    """Of the next page; null: this is the last."""


def _fit(job: Job, jobs: Jobs) -> Fit:
    progress: Any = jobs.progress_of(job)
    return Fit(
        id=job.id,
        status=job.state,
        cancelling=job.cancelled_by is not None and not job.has_ended,
        source=job.source,
        watch=job.fit.watch,
        order=job.fit,
        created_at=job.created_at,
        created_by=job.created_by,
        started_at=job.started_at,
        ended_at=job.ended_at,
        starts=job.starts,
        progress=progress,
        error=None if job.error is None else FitError(kind=job.error, detail=job.detail or ""),
        classifier=job.classifiers[-1].version if job.classifiers else None,
        classifiers=job.classifiers,
    )


@router.post("", status_code=202, responses=problems(404))
async def submit(service: ServiceDep, caller: MayFit, response: Response, fit: NewFit) -> Fit:
    """Queue a fit of a classifier to the traces of an archive, or with ``watch`` to those of a run
    that trains. Location names it. Scope fit."""
    job = await service.jobs.submit(fit, caller)
    response.headers["Location"] = f"/v1/fits/{job.id}"
    return _fit(job, service.jobs)


@router.get("")
async def listed(
    service: ServiceDep,
    _caller: MayRead,
    status: State | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,15}$")] = None,
) -> Fits:
    """Fits, the newest first. Scope read."""
    jobs = await service.jobs.page(
        states=STATES if status is None else (status,),
        before=None if cursor is None else int(cursor),
        limit=limit + 1,
    )
    shown = jobs[:limit]
    return Fits(
        fits=[_fit(job, service.jobs) for job in shown],
        next_cursor=str(shown[-1].number) if len(jobs) > limit else None,
    )


@router.get("/{fit_id}", responses=problems(404))
async def one(service: ServiceDep, _caller: MayRead, fit_id: str) -> Fit:
    """A fit, with its progress. Scope read."""
    return _fit(await service.jobs.get(fit_id), service.jobs)


@router.get(
    "/{fit_id}/log",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(404)},
)
async def log(service: ServiceDep, _caller: MayFit, fit_id: str) -> Response:
    """The end of what a fit's processes have logged. Scope fit."""
    job = await service.jobs.get(fit_id)
    text = await service.jobs.log_tail(job, _LOG_BYTES)
    return Response(text, media_type="text/plain; charset=utf-8")


@router.post("/{fit_id}/cancel", responses=problems(404, 409))
async def cancel(service: ServiceDep, caller: MayFit, fit_id: str) -> Fit:
    """Cancel a fit: one that waits at once, one that runs as soon as its process has ended. What it
    has registered stays. Scope fit."""
    return _fit(await service.jobs.cancel(fit_id, caller), service.jobs)
