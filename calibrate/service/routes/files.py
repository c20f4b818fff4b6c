"""Routes of files, in OpenAI's shape: batch files go in, answers come out."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Response, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel

from calibrate.service.routes.context import MayClassify, ServiceDep, problems

router = APIRouter(prefix="/v1/files", tags=["batches"])

_CHUNK = 2**20
Id = Annotated[str, Query(min_length=1, max_length=100)]


class FileObject(BaseModel):
    """File object."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]
    expires_at: int | None


class FilePage(BaseModel):
    """Page of files, the newest first."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedFile(BaseModel):
    """Answer to a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


@router.post("", responses=problems(413))
async def upload(
    file: UploadFile,
    purpose: Annotated[Literal["batch"], Form()],
    service: ServiceDep,
    caller: MayClassify,
) -> FileObject:
    """Upload a batch file: one request a line, at most 50,000. Its lines are checked here; each one
    that cannot be asked is named in the problem's ``errors``."""
    record = await service.batches.files.upload(_chunks(file), file.filename or "", caller)
    return _shown(record.as_json())


@router.get("", responses=problems(404))
async def list_files(
    service: ServiceDep,
    caller: MayClassify,
    after: Id | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
    purpose: Literal["batch", "batch_output"] | None = None,
) -> FilePage:
    """Files of the token, the newest first; of all tokens for an admin."""
    records, more = await service.database.run(
        lambda: service.batches.files.page(caller, after=after, limit=limit, purpose=purpose)
    )
    data = [_shown(record.as_json()) for record in records]
    return FilePage(
        data=data,
        has_more=more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/{file_id}", responses=problems(404))
async def one_file(file_id: str, service: ServiceDep, caller: MayClassify) -> FileObject:
    """One file."""
    record = await service.database.run(lambda: service.batches.files.get(file_id, caller))
    return _shown(record.as_json())


@router.get(
    "/{file_id}/content",
    response_class=FileResponse,
    responses=problems(404)
    | {200: {"content": {"application/jsonl": {"schema": {"type": "string"}}}}},
)
async def content(file_id: str, service: ServiceDep, caller: MayClassify) -> Response:
    """Content of a file: JSON lines."""
    record = await service.database.run(lambda: service.batches.files.get(file_id, caller))
    return FileResponse(
        service.batches.files.path_of(record.id),
        media_type="application/jsonl",
        filename=record.filename,
    )


@router.delete("/{file_id}", responses=problems(404, 409))
async def delete(file_id: str, service: ServiceDep, caller: MayClassify) -> DeletedFile:
    """Delete a file that no batch reads."""
    await service.database.run(lambda: service.batches.files.delete(file_id, caller))
    return DeletedFile(id=file_id)


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(_CHUNK):
        yield chunk


def _shown(values: dict[str, Any]) -> FileObject:
    return FileObject.model_validate(values)
