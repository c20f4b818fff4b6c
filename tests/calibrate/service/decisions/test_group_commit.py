import asyncio

import pytest

from calibrate.service.decisions.group_commit import GroupCommit


class Disk:
    """Writes that a test lets go on; a row that is negative fails its write."""

    def __init__(self) -> None:
        self.written: list[list[int]] = []
        self.open = asyncio.Event()

    async def write(self, rows: list[int]) -> None:
        await self.open.wait()
        if min(rows) < 0:
            raise ValueError(f"{min(rows)} cannot be written")
        self.written.append(rows)


async def started(commit: GroupCommit[int], *rows: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(commit.put(row)) for row in rows]
    await asyncio.sleep(0)
    return tasks


async def test_rows_that_come_while_one_is_written_are_written_together():
    disk = Disk()
    commit = GroupCommit(disk.write)
    tasks = await started(commit, 0)
    await asyncio.sleep(0)
    tasks += await started(commit, *range(1, 200))
    assert not any(task.done() for task in tasks)
    disk.open.set()
    await asyncio.gather(*tasks)
    assert [len(rows) for rows in disk.written] == [1, 199]
    assert sorted(row for rows in disk.written for row in rows) == list(range(200))


async def test_a_row_that_cannot_be_written_fails_alone():
    disk = Disk()
    commit = GroupCommit(disk.write)
    tasks = await started(commit, 1, -5, 2)
    disk.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(one) for one in results] == ["None", "-5 cannot be written", "None"]
    assert disk.written == [[1], [2]]


async def test_a_request_that_is_cancelled_leaves_its_row_and_stops_no_other():
    disk = Disk()
    commit = GroupCommit(disk.write)
    first, second = await started(commit, 1, 2)
    first.cancel()
    disk.open.set()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert disk.written == [[1, 2]]


async def test_closing_waits_for_what_is_being_written():
    disk = Disk()
    commit = GroupCommit(disk.write)
    await started(commit, 1)
    closing = asyncio.create_task(commit.close())
    await asyncio.sleep(0)
    assert not closing.done()
    disk.open.set()
    await closing
    assert disk.written == [[1]]
