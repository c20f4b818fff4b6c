"""Routes of archives and traces: what classifiers were fitted on, to browse."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from calibrate.service.problems import Problem
from calibrate.service.protocols import TraceBrowser
from calibrate.service.routes.context import MayRead, ServiceDep, problems
from wire.errors import ArchiveError, DataError

router = APIRouter(prefix="/v1", tags=["traces"])
T = TypeVar("T")


class ArchiveCount(BaseModel):
    """Counts of one attempt, purpose, split and label."""

    attempt: int
    purpose: str
    split: str
    label: str
    first_step: int
    last_step: int
    groups: int
    traces: int
    failed: int
    tokens: int
    mean_reward: float | None


class ArchiveSummary(BaseModel):
    """Summary of an archive; ``error`` in place of its counts, if it cannot be read."""

    name: str
    groups: int = 0
    traces: int = 0
    failed: int = 0
    tokens: int = 0
    files: int = 0
    bytes: int = 0
    written: tuple[float, float] | None = None
    """Times of its oldest and newest file, in seconds since 1970."""
    counts: list[ArchiveCount] = []
    error: str | None = None


class Archives(BaseModel):
    """Archives of the service."""

    archives: list[ArchiveSummary]


class Traces(BaseModel):
    """Page of traces."""

    archive: str
    traces: list[dict[str, Any]]
    """``id``, and the columns of the archive's index (docs/archive.md)."""
    next_cursor: str | None = Field(description="Of the next page; null: this is the last.")


@router.get("/archives")
async def list_archives(service: ServiceDep, _caller: MayRead) -> Archives:
    """Archives of the service, with their counts."""
    browser = service.traces
    return await _in_thread(
        lambda: Archives(archives=[_summary(browser, name) for name in browser.names()])
    )


@router.get("/traces", responses=problems(404))
async def list_traces(
    service: ServiceDep,
    _caller: MayRead,
    archive: Annotated[str | None, Query(description="Name; none: the first archive.")] = None,
    where: Annotated[
        tuple[Annotated[str, Field(max_length=1_000)], ...],
        Query(max_length=20, description="Filters that all must hold, such as label=undo."),
    ] = (),
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Traces:
    """Traces of an archive in the order of writing, a page at a time."""
    browser = service.traces
    name = _archive_name(browser, archive)
    page = await _in_thread(
        lambda: _or_problem(lambda: browser.page(name, where, limit, cursor), 422, "bad-listing")
    )
    return Traces(archive=name, traces=page.rows, next_cursor=page.next_cursor)


@router.get("/traces/{archive}/{trace_id:path}", responses=problems(404))
async def one_trace(
    archive: str, trace_id: str, service: ServiceDep, _caller: MayRead
) -> dict[str, Any]:
    """One trace, whole: its prompt, text, tokens, logprobs and reward, and the ids of its group."""
    browser = service.traces
    name = _archive_name(browser, archive)
    return await _in_thread(
        lambda: _or_problem(lambda: browser.trace(name, trace_id), 404, "no-such-trace")
    )


async def _in_thread(call: Callable[[], T]) -> T:
    """Result of a call that reads a disk."""
    return await anyio.to_thread.run_sync(call)


def _archive_name(browser: TraceBrowser, archive: str | None) -> str:
    names = browser.names()
    if archive is None and names:
        return names[0]
    if archive is None or archive not in names:
        known = ", ".join(names) or "none: name some in the service's settings"
        raise Problem(404, "no-such-archive", f"there is no archive {archive!r}; there are {known}")
    return archive


def _summary(browser: TraceBrowser, name: str) -> ArchiveSummary:
    try:
        return ArchiveSummary(**browser.summary(name))
    except (DataError, ArchiveError) as error:
        return ArchiveSummary(name=name, error=str(error))


def _or_problem(call: Callable[[], T], status: int, slug: str) -> T:
    try:
        return call()
    except DataError as error:
        raise Problem(status, slug, str(error)) from error
    except ArchiveError as error:
        raise Problem(
            503, "archive-unreadable", str(error), headers={"Retry-After": "5"}
        ) from error
