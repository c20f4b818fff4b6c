import gc
import os
import subprocess
import weakref
from pathlib import Path

import numpy as np
import pytest

from wire.shared_memory import SharedBuffer, SharedReader


def test_another_process_reads_what_is_in_the_buffer_now() -> None:
    buffer = SharedBuffer(256)
    for _ in range(2):
        buffer.data[:] = np.random.default_rng().integers(0, 255, 256, np.uint8)
        done = subprocess.run(["cat", buffer.path], capture_output=True, check=True)
        assert done.stdout == bytes(buffer.data)


def test_nothing_is_left_behind() -> None:
    before = set(Path("/dev/shm").iterdir())
    buffer = SharedBuffer(3)
    assert set(Path("/dev/shm").iterdir()) == before  # a kill now would leave nothing either
    path = buffer.path
    del buffer
    assert not Path(path).exists()


def test_a_reader_sees_every_change_and_changes_nothing() -> None:
    buffer, reader = SharedBuffer(8), SharedReader()
    view = reader.view(buffer.path)
    buffer.data[:] = 7
    assert view.tolist() == [7] * 8
    view[0] = 1
    assert buffer.data[0] == 7


def test_a_buffer_that_comes_again_is_not_mapped_again() -> None:
    buffer, reader = SharedBuffer(8), SharedReader()
    assert reader.view(buffer.path) is reader.view(buffer.path)


def test_a_buffer_that_did_not_come_again_is_let_go() -> None:
    """The weights of the last stage, after an update of this one's."""
    reader, last, this = SharedReader(), SharedBuffer(8), SharedBuffer(8)
    views = [weakref.ref(reader.view(buffer.path).base) for buffer in (last, this)]
    reader.forget_unseen()
    for _ in range(2):
        reader.view(this.path)
        reader.forget_unseen()
    gc.collect()
    assert [view() is None for view in views] == [True, False]


def test_another_buffer_at_the_same_path_is_another_view() -> None:
    """Numbers of open files are given again, so a path alone says nothing."""
    reader, first = SharedReader(), SharedBuffer(8)
    first.data[:] = 1
    path, old = first.path, reader.view(first.path)
    del first
    second = SharedBuffer(8)
    assert second.path == path
    assert (old.tolist(), reader.view(path).tolist()) == ([1] * 8, [0] * 8)


def test_a_buffer_whose_owner_is_gone_cannot_be_read() -> None:
    buffer = SharedBuffer(8)
    path = buffer.path
    del buffer
    assert not os.path.lexists(path)
    with pytest.raises(OSError, match=path):
        SharedReader().view(path)
