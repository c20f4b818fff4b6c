"""Routes of batches, in OpenAI's shape: a file of requests -> a file of answers."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from calibrate.service.batches.journal import Status
from calibrate.service.routes.context import MayClassify, ServiceDep, problems

router = APIRouter(prefix="/v1/batches", tags=["batches"])

_Key = Annotated[str, StringConstraints(min_length=1, max_length=64)]
_Value = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[_Key, _Value], Field(max_length=16)]


class NewBatch(BaseModel):
    """Batch to make."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str = Field(max_length=100)
    endpoint: Literal["/v1/classify"]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None


class RequestCounts(BaseModel):
    """Counts of a batch's requests."""

    total: int
    completed: int
    failed: int


class BatchError(BaseModel):
    """Fault for which a batch failed."""

    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(BaseModel):
    """Faults for which a batch failed."""

    object: Literal["list"]
    data: list[BatchError]


class BatchObject(BaseModel):
    """Batch object. Times are seconds since 1970."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchPage(BaseModel):
    """Page of batches, the newest first."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    has_more: bool
    first_id: str | None
    last_id: str | None


@router.post("", responses=problems(404, 409))
async def create(given: NewBatch, service: ServiceDep, caller: MayClassify) -> BatchObject:
    """Ask all requests of an uploaded file, behind interactive ones, within 24 hours."""
    batch = await service.batches.create(given.input_file_id, caller, given.metadata)
    return _shown(batch.as_json())


@router.get("", responses=problems(404))
async def list_batches(
    service: ServiceDep,
    caller: MayClassify,
    after: Annotated[str, Query(min_length=1, max_length=100)] | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> BatchPage:
    """Batches of the token, the newest first; of all tokens for an admin."""
    records, more = await service.batches.page(caller, after=after, limit=limit)
    data = [_shown(record.as_json()) for record in records]
    return BatchPage(
        data=data,
        has_more=more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/{batch_id}", responses=problems(404))
async def one_batch(batch_id: str, service: ServiceDep, caller: MayClassify) -> BatchObject:
    """One batch, with counts of its requests."""
    return _shown((await service.batches.get(batch_id, caller)).as_json())


@router.post("/{batch_id}/cancel", responses=problems(404, 409))
async def cancel(batch_id: str, service: ServiceDep, caller: MayClassify) -> BatchObject:
    """Cancel a batch: requests that are being answered still are, and all answers so far are in its
    output file."""
    return _shown((await service.batches.cancel(batch_id, caller)).as_json())


def _shown(values: dict[str, Any]) -> BatchObject:
    return BatchObject.model_validate(values)
