import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from calibrate.service.config import ServiceConfig
from calibrate.service.http.body import LimitedBody

CONFIG = ServiceConfig(
    state=Path("s"),
    max_json_bytes=10,
    max_body_bytes=20,
    max_batch_file_bytes=30,
    body_timeout_s=0.05,
)


def body(chunks: Iterable[bytes], path: str = "/v1/classify", **headers: str) -> LimitedBody:
    """A body in chunks, which then stops coming."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return LimitedBody({"type": "http", "path": path, "headers": raw}, receive, CONFIG)


async def refusal(limited: LimitedBody) -> int:
    async def read() -> None:
        while True:
            await limited()

    with pytest.raises(HTTPException) as error:
        await read()
    return error.value.status_code


@pytest.mark.parametrize(
    ("content_type", "path", "limit"),
    [
        ("application/json", "/v1/classify", 10),
        ("multipart/form-data; boundary=b", "/v1/classify", 20),
        ("multipart/form-data; boundary=b", "/v1/files", 30),
    ],
)
async def test_a_body_is_cut_off_at_the_limit_of_its_kind(content_type: str, path: str, limit: int):
    at_limit = [b"x" * (limit - 1), b"y"]
    assert await refusal(body(at_limit, path, content_type=content_type)) == 408
    assert await refusal(body([*at_limit, b"z"], path, content_type=content_type)) == 413


@pytest.mark.parametrize(("length", "status"), [("11", 413), ("-1", 400), ("²", 400)])
def test_a_length_that_says_too_much_or_nothing_is_refused_before_a_byte(length: str, status: int):
    with pytest.raises(HTTPException) as error:
        body([], content_length=length)
    assert error.value.status_code == status
