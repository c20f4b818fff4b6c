"""Deadlines of calls to vLLM's engine: an error of ours that names call and setting."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from wire.errors import DeadlineExceeded


@contextlib.asynccontextmanager
async def deadline(limit_s: float, what: str, setting: str) -> AsyncIterator[asyncio.Timeout]:
    """Deadline of a block in which the engine is to do ``what``. Raises DeadlineExceeded, which
    names the ``setting`` that the limit comes from."""
    try:
        async with asyncio.timeout(limit_s) as limit:
            yield limit
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"the engine did not {what} within {limit_s:.0f} s; see its log, or raise {setting}"
        ) from error
