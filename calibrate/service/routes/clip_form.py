"""Form with clips: each file goes to the clip store while it comes in, and nowhere else.

request -> parts of the form -> text fields
                             -> files: hashed, limited and written as they come -> UploadedClip
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from calibrate.service.intake.clips import Intake, Receiving
from calibrate.service.problems import Problem


class UploadedClip(UploadFile):
    """File of a form that is a clip; only :meth:`Intake.admit` reads it."""

    def __init__(self, name: str, receiving: Receiving) -> None:
        super().__init__(cast("Any", receiving), filename=name)
        self.receiving = receiving

    async def write(self, data: bytes) -> None:
        """Append bytes. Raises Problem 413, 507."""
        await self.receiving.write(data)

    async def seek(self, offset: int) -> None:
        """Nothing: the parser winds files back once they are whole."""


@asynccontextmanager
async def clip_form(
    request: Request, intake: Intake, *, max_files: int, max_fields: int, max_field_bytes: int
) -> AsyncIterator[FormData]:
    """Form of a request, whose files are UploadedClip; those that were not admitted are gone after
    the block. Raises Problem 400 if it is no form, 413 if it has too much in it."""
    parser = _Parser(
        request.headers,
        cast("Any", request.stream()),
        max_files=max_files,
        max_fields=max_fields,
        max_part_size=max_field_bytes,
    )
    parser.intake = intake
    try:
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise _no_form(error.message) from error
        if not parser.is_whole:
            raise _no_form("it ends before its last boundary")
        yield form
    finally:
        for receiving in parser.received:
            receiving.close()


def _no_form(reason: str) -> Problem:
    return Problem(400, "no-form", f"the form cannot be read: {reason}")


class _Parser(MultiPartParser):
    intake: Intake
    is_whole = False

    def __init__(self, *arguments: Any, **limits: Any) -> None:
        super().__init__(*arguments, **limits)
        self.received: list[Receiving] = []
        """Also of parts that do not end."""

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        part = self._current_part
        if part.file is not None:
            part.file.file.close()
            self.received.append(self.intake.receive())
            part.file = UploadedClip(part.file.filename or "", self.received[-1])

    def on_end(self) -> None:
        self.is_whole = True
