"""How long the driver's event loop stands still while a judge is asked by many at once.

    python -m tests.benchmarks.judge_lag [--json FILE]

A local HTTP server in a process of its own, which keeps connections and takes 0.2 s to reply, is
asked 2,048 times, 64 groups of 8 at once. Meanwhile a ticker in the asking loop wakes every 5 ms
and notes how late it is; the same without the judge says how busy the machine is.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import Awaitable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reward.builtins.judge import close_judges, judge
from reward.builtins.judge_params import JudgeParams
from reward.context import RewardContext
from tests.benchmarks.figures import Figure, report
from tests.reward.judge_server import reply
from wire.labels import Label, LabelSet

NUM_CALLS, AT_ONCE, GROUP_SIZE, REPLY_S = 2_048, 512, 8, 0.2
LABELS = LabelSet(labels=(Label(name="abnormal"), Label(name="normal")))


def serve(told: Connection) -> None:
    """Reply until the process is ended; tells its port, and each connection's number."""
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        body = reply("<score>5</score>").replace(b"Connection: close\r\n", b"")
        told.send(connections)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().lower().splitlines()
                length = next(line for line in lines if line.startswith("content-length"))
                await reader.readexactly(int(length.split(":")[1]))
                await asyncio.sleep(REPLY_S)
                writer.write(body)

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=AT_ONCE)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def lags_ms(work: Awaitable[Any]) -> list[float]:
    """How late a ticker wakes meanwhile, sorted."""
    lags: list[float] = []

    async def tick() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.005)
            lags.append((time.perf_counter() - start - 0.005) * 1e3)

    ticking = asyncio.create_task(tick())
    await work
    await asyncio.sleep(0.05)
    ticking.cancel()
    return sorted(lags)


async def ask(port: int) -> None:
    """Ask the judge for all scores."""
    params = JudgeParams(
        base_url=f"http://127.0.0.1:{port}/v1", model="m", max_concurrency=AT_ONCE
    ).arguments()
    context = RewardContext(
        labels=LABELS,
        extra={},
        texts=("x",),
        index=0,
        num_tokens=1,
        is_truncated=False,
        max_response_length=None,
        video="a.mp4",
    )
    text = "word " * 1_000

    async def groups(first: int) -> None:
        for group in range(first, NUM_CALLS // GROUP_SIZE, AT_ONCE // GROUP_SIZE):
            texts = [f"{group} {member} {text}" for member in range(GROUP_SIZE)]
            asked = [judge(text, "normal", context, **params) for text in texts]
            assert set(await asyncio.gather(*asked)) == {0.5}

    await asyncio.gather(*[groups(number) for number in range(AT_ONCE // GROUP_SIZE)])
    await close_judges()


def figures() -> Iterator[Figure]:
    """All rows."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    port = ours.recv()
    idle = asyncio.run(lags_ms(asyncio.sleep(3)))
    yield Figure("lag without a judge, p99", idle[int(len(idle) * 0.99)], "ms")
    start = time.perf_counter()
    lags = asyncio.run(lags_ms(ask(port)))
    took = time.perf_counter() - start
    yield Figure("lag with a judge, p99", lags[int(len(lags) * 0.99)], "ms")
    yield Figure("lag with a judge, longest", lags[-1], "ms")
    yield Figure("asked", NUM_CALLS / took, "calls/s")
    connections = 0
    while ours.poll():
        connections = ours.recv()
    yield Figure("connections", connections, "", limit=AT_ONCE, goal="below")
    server.terminate()


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the rows are written")
    return report(figures(), parser.parse_args().json)


if __name__ == "__main__":
    raise SystemExit(main())
