import subprocess
from pathlib import Path

import numpy as np

from rollout.shared_memory import shared


def test_another_process_reads_the_bytes_while_the_block_runs() -> None:
    data = np.arange(256, dtype=np.uint8)
    with shared(data) as path:
        assert subprocess.run(["cat", path], capture_output=True, check=True).stdout == bytes(data)


def test_nothing_is_left_behind() -> None:
    before = set(Path("/dev/shm").iterdir())
    with shared(b"abc") as path:
        assert set(Path("/dev/shm").iterdir()) == before  # a kill now would leave nothing either
    assert not Path(path).exists()


def test_bytes_of_a_read_only_array_are_shared() -> None:
    data = np.arange(8, dtype=np.uint8)
    data.flags.writeable = False  # as Ray's object store hands them out
    with shared(data) as path:
        assert Path(path).read_bytes() == bytes(data)
