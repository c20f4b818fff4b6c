"""Routes of what people look at: frames that the model saw, and the clip itself."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from starlette.responses import FileResponse, MalformedRangeHeader, RangeNotSatisfiable

from calibrate.service.decisions.decisions import DecisionFilter
from calibrate.service.intake.clips import AdmittedClip
from calibrate.service.intake.content_types import UNKNOWN, content_type_of
from calibrate.service.intake.store import KeptClip
from calibrate.service.problems import Problem
from calibrate.service.routes.context import MayAdmin, MayRead, ServiceDep, problems
from calibrate.service.service import Service

router = APIRouter(prefix="/v1", tags=["frames"])
VideoHash = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256 of the clip.")]
_ENDINGS = {
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
    "video/ogg": ".ogv",
    "image/gif": ".gif",
}
"""Of what a browser plays; the rest is to be saved."""
_CONTENT: dict[str, Any] = {kind: {} for kind in (*_ENDINGS, UNKNOWN)}
_PRIVATE = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}


@router.get(
    "/decisions/{decision_id}/frames/{number}.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **problems(404, 409, 410)},
)
async def frame(decision_id: str, number: int, service: ServiceDep, _caller: MayRead) -> Response:
    """Frame that the model saw, by its number in the video, scaled down to 768 pixels a side."""
    clip = (await service.decisions.get(decision_id)).record.clip
    picture = await service.pictures.png(
        video_hash=clip.video_hash,
        source=clip.source,
        name=clip.name,
        numbers=clip.frames,
        number=number,
    )
    return Response(picture, media_type="image/png", headers=_PRIVATE)


@router.get(
    "/clips/{video_hash}",
    response_class=FileResponse,
    responses={
        200: {"content": _CONTENT},
        206: {
            "description": "The part that Range asks for",
            "content": _CONTENT | {"multipart/byteranges": {}},
        },
        **problems(404, 409, 416),
    },
)
async def clip(video_hash: VideoHash, service: ServiceDep, _caller: MayRead) -> Response:
    """Clip that was decided about, for a player; Range is answered. A clip of a path is read from
    there, if its bytes are still the same."""
    kept = service.clips.open(video_hash) or await _by_path(service, video_hash)
    kind = content_type_of(kept.path)
    return _ClipResponse(
        kept,
        kept.path,
        media_type=kind,
        filename=f"{video_hash[:16]}{_ENDINGS.get(kind, '.bin')}",
        content_disposition_type="inline" if kind in _ENDINGS else "attachment",
        headers=_PRIVATE | {"Content-Security-Policy": "sandbox; default-src 'none'"},
    )


class _ClipResponse(FileResponse):
    """Answer with a clip, whose file stays until it is sent."""

    def __init__(self, kept: KeptClip | AdmittedClip, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._kept = kept

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        try:
            return super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader:
            return []  # the whole clip, as RFC 9110 has it
        except RangeNotSatisfiable as error:
            raise Problem(
                416,
                "no-such-part",
                f"the clip has {file_size} bytes",
                headers={"Content-Range": f"bytes */{file_size}"},
            ) from error


async def _by_path(service: Service, video_hash: str) -> AdmittedClip:
    """The clip of the newest decision about it. Raises Problem 404 unless it came by path, and
    those of ``Intake.again``."""
    records, _ = await service.decisions.page(DecisionFilter(video_hash=video_hash), 1, None)
    if not records or records[0].clip.source != "path":
        raise _no_clip(video_hash)
    name = records[0].clip.name
    return await service.intake.again(video_hash=video_hash, source="path", name=name)


@router.delete("/clips/{video_hash}", status_code=204, responses=problems(404))
async def delete_clip(video_hash: VideoHash, service: ServiceDep, caller: MayAdmin) -> None:
    """Delete a clip that is kept, also one under review; its decisions stay, without it."""

    def delete() -> bool:
        with service.database.write() as connection:
            removed = service.clips.remove(video_hash)
            if removed:
                service.audit.append(
                    connection, caller.name, "clip.deleted", f"clips/{video_hash}", {}
                )
            return removed

    if not await service.database.run(delete):
        raise _no_clip(video_hash)
    service.pictures.forget(video_hash)


def _no_clip(video_hash: str) -> Problem:
    return Problem(
        404,
        "no-such-clip",
        f"no clip {video_hash} is kept: it never came, was deleted, or made room for others "
        "(clip_store_gb)",
    )
