"""Batch files and callers for tests of batches."""

import json
from collections.abc import AsyncIterator
from typing import Any

from calibrate.service.caller import Caller

ANN = Caller(token_id="tok_ann", name="Ann", scopes=frozenset({"classify"}))
BEN = Caller(token_id="tok_ben", name="Ben", scopes=frozenset({"classify"}))
ADMIN = Caller(token_id="tok_admin", name="Ada", scopes=frozenset({"admin"}))


def line(custom_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/classify",
        "body": {"video": {"path": f"{custom_id}.mp4"}},
    } | changes


def lines(count: int) -> bytes:
    return b"".join(json.dumps(line(f"clip-{n}")).encode() + b"\n" for n in range(count))


async def stream(content: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]
