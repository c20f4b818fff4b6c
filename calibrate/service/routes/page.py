"""Web page at ``/``, and its own scripts and styles under ``/static/``: all that needs no token.

The files are read once, by a table of their names, so that no path of a request reaches the disk.
"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

from calibrate.service.problems import Problem

router = APIRouter(include_in_schema=False)
_FOLDER = Path(__file__).parents[1] / "web"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of the page, as it is sent."""

    content: bytes
    compressed: bytes
    content_type: str
    etag: str


@cache
def static_files() -> dict[str, StaticFile]:
    """Files of the page by name."""
    paths = (path for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES)
    return {path.name: _read(path) for path in paths}


@router.get("/")
async def page(request: Request) -> Response:
    """The page."""
    return _answer(request, static_files()["index.html"])


@router.get("/static/{name}")
async def page_file(request: Request, name: str) -> Response:
    """A script, style or image of the page."""
    if name not in static_files():
        raise Problem(404, "not-found", f"the page has no file {name!r}; open / instead")
    return _answer(request, static_files()[name])


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    return StaticFile(
        content=content,
        compressed=gzip.compress(content, mtime=0),
        content_type=_TYPES[path.suffix],
        etag=f'"{hashlib.sha256(content).hexdigest()[:20]}"',
    )


def _answer(request: Request, file: StaticFile) -> Response:
    headers = {"ETag": file.etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    content = file.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["Content-Encoding"] = file.compressed, "gzip"
    return Response(content, media_type=file.content_type, headers=headers)
