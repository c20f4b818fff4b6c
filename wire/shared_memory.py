"""Shared memory: buffers that processes of one machine read without a copy.

    SharedBuffer (writer)  -> .path, a string for others ->  SharedReader (reader)

The memory has no name, so a process that is killed leaves nothing behind; readers of the same user
open it through ``/proc`` while the writer lives.
"""

import mmap
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class SharedBuffer:
    """Memory that is written to over and over: the first touch of a page costs ten later ones."""

    def __init__(self, num_bytes: int) -> None:
        self._file = os.memfd_create("deepintuit")
        os.ftruncate(self._file, num_bytes)
        self.data: Bytes = np.frombuffer(mmap.mmap(self._file, num_bytes), dtype=np.uint8)

    @property
    def path(self) -> str:
        """Path under which processes of the same user find the buffer, as long as this one has it
        open."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def __del__(self) -> None:
        with suppress(AttributeError):  # it was never opened
            os.close(self._file)


class SharedReader:
    """Views of others' buffers. A buffer that comes again is not mapped again."""

    def __init__(self) -> None:
        self._views: dict[tuple[int, int], Bytes] = {}
        self._seen: set[tuple[int, int]] = set()

    def view(self, path: str) -> Bytes:
        """All bytes of a buffer; what is written into the view stays in this process.

        It shows what the buffer holds now, so the owner says when to look. Raises OSError if the
        owner is gone.
        """
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            key = (status.st_ino, status.st_size)
            if key not in self._views:
                private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                self._views[key] = np.frombuffer(private, dtype=np.uint8)
        self._seen.add(key)
        return self._views[key]

    def forget_unseen(self) -> None:
        """Unmap buffers that were not viewed since the last call: a view keeps a buffer's memory,
        also when its owner has no more use for it."""
        self._views = {key: view for key, view in self._views.items() if key in self._seen}
        self._seen.clear()

    def forget(self) -> None:
        """Unmap all buffers."""
        self._views.clear()
