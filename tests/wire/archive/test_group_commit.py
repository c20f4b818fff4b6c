import errno
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from wire.archive.group_commit import GroupCommit


class Disk:
    """Writes one batch at a time, each when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.failures: list[BaseException | None] = []

    def write(self, records: Mapping[str, bytes]) -> None:
        self.begun.release()
        assert self.go_on.acquire(timeout=10)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        self.batches.append(list(records))


def hand_in(disk: Disk, commit: GroupCommit, threads: ThreadPoolExecutor) -> list[Future[None]]:
    """Of five records, the first is being written, the others wait."""
    added = [threads.submit(commit.add, "first", b"")]
    assert disk.begun.acquire(timeout=10)
    added += [threads.submit(commit.add, name, b"") for name in "abcd"]
    while len(commit._waiting) < 4:
        threading.Event().wait(0.001)
    return added


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_what_waits_while_another_writes_is_written_together(disk: Disk) -> None:
    commit = GroupCommit(disk.write)
    with ThreadPoolExecutor(5) as threads:
        added = hand_in(disk, commit, threads)
        assert not any(one.done() for one in added)
        disk.go_on.release()
        added[0].result(10)
        assert not any(one.done() for one in added[1:])
        disk.go_on.release()
    assert [sorted(names) for names in disk.batches] == [["first"], ["a", "b", "c", "d"]]


def test_a_write_that_fails_fails_for_all_in_it_and_for_no_other(disk: Disk) -> None:
    commit = GroupCommit(disk.write)
    disk.failures = [None, OSError(errno.ENOSPC, "No space left on device")]
    with ThreadPoolExecutor(5) as threads:
        added = hand_in(disk, commit, threads)
        disk.go_on.release(2)
        added[0].result(10)
        for one in added[1:]:
            with pytest.raises(OSError, match="No space left"):
                one.result(10)
        disk.go_on.release()
        threads.submit(commit.add, "later", b"").result(10)
    assert disk.batches == [["first"], ["later"]]


def test_an_interrupt_ends_one_thread_and_the_others_hear_that_nothing_was_written(
    disk: Disk,
) -> None:
    commit = GroupCommit(disk.write)
    disk.failures = [None, KeyboardInterrupt()]
    with ThreadPoolExecutor(5) as threads:
        added = hand_in(disk, commit, threads)
        disk.go_on.release(2)
        errors = [one.exception(10) for one in added[1:]]
        assert sorted(type(error).__name__ for error in errors) == [
            *["InterruptedError"] * 3,
            "KeyboardInterrupt",
        ]
        disk.go_on.release()
        threads.submit(commit.add, "later", b"").result(10)
    assert disk.batches == [["first"], ["later"]]
