import asyncio
import threading
import time

import pytest

from wire.daemon_thread import run_in_daemon_thread


async def test_it_gives_the_result_and_raises_what_the_work_raised():
    assert await run_in_daemon_thread(max, 3, 7) == 7
    with pytest.raises(ValueError, match="nine"):
        await run_in_daemon_thread(int, "nine")


def test_whoever_stops_waiting_does_not_wait_for_the_work():
    """asyncio.run joins the threads of to_thread before it returns."""
    release = threading.Event()

    async def impatient() -> None:
        async with asyncio.timeout(0.05):
            await run_in_daemon_thread(release.wait, 30)

    before = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    assert time.monotonic() - before < 5
    release.set()  # its answer finds a loop that has ended
    time.sleep(0.05)
