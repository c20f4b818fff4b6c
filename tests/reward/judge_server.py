"""A judge's endpoint that misbehaves as servers do. (No test file.)"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any


def reply(content: object, status: int = 200, header: str = "") -> bytes:
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})
    return raw(body.encode(), status, header)


def raw(body: bytes, status: int = 200, header: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{header}\r\n"
    )
    return head.encode() + body


class Server:
    """Gives its replies in turn, the last one for ever. None hangs, ``b""`` hangs up."""

    def __init__(self, *replies: bytes | None, delay_s: float = 0.0) -> None:
        self.replies = list(replies)
        self.delay_s = delay_s
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.times: list[float] = []
        self.at_once = self.most_at_once = 0
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                int(line.split(":")[1])
                for line in head.splitlines()
                if line.lower().startswith("content-length")
            )
            self.requests.append(json.loads(await reader.readexactly(length)))
            self.headers.append(head)
            self.times.append(time.monotonic())
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            await asyncio.sleep(self.delay_s)
            mine = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            if mine is None:
                await asyncio.sleep(60)
            else:
                for at in range(0, len(mine), 65536):
                    writer.write(mine[at : at + 65536])
                    await writer.drain()
            self.at_once -= 1
        writer.close()


@contextlib.asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    listener = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listener.close()
