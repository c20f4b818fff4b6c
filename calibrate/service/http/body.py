"""Body of a request, within its limits while it streams in."""

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from calibrate.service.config import ServiceConfig

BATCH_FILES = "/v1/files"


class LimitedBody:
    """ASGI ``receive`` that counts bytes and waits for none too long. Raises HTTPException, which
    form parsers let through: 413 too large, 408 too slow, 400 a length that is no number."""

    def __init__(self, scope: Scope, receive: Receive, config: ServiceConfig) -> None:
        self._receive, self._timeout_s = receive, config.body_timeout_s
        headers = Headers(scope=scope)
        self._limit = _limit(scope["path"], headers.get("content-type", ""), config)
        self._num_bytes, self._ended = 0, False
        length = headers.get("content-length")
        if length is not None:
            if not (length.isascii() and length.isdigit()):
                raise HTTPException(400, "Content-Length is no number")
            self._check(int(length))

    async def __call__(self) -> Message:
        if self._ended:  # only the end of the connection is still to come
            return await self._receive()
        try:
            async with asyncio.timeout(self._timeout_s):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(
                408,
                f"no byte of the body came for {self._timeout_s:g} s; send it again",
                {"Connection": "close"},
            ) from error
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            self._check(self._num_bytes)
        self._ended = not message.get("more_body", False)
        return message

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self._limit:
            raise HTTPException(
                413,
                f"the body is larger than {self._limit:,} bytes; send less at a time",
                {"Connection": "close"},
            )


def _limit(path: str, content_type: str, config: ServiceConfig) -> int:
    """Bytes that a request may have. Only uploads are streamed to disk; the rest is held whole."""
    if not content_type.lower().startswith("multipart/"):
        return config.max_json_bytes
    return config.max_batch_file_bytes if path == BATCH_FILES else config.max_body_bytes
