"""Log of the engines' processes: what they print goes to a file, and is shown if they fail.

    engines start -> their standard output and error -> a file without a name -> its last lines

vLLM and PyTorch print dozens of lines at each start, and the cause of a start that failed nowhere
else.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_LINES = 40
_BYTES = 64 * 1024


class EngineLog:
    """What processes that were started inside :meth:`captured` print, as long as they live."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  as long as this object

    @contextmanager
    def captured(self) -> Iterator[None]:
        """Standard output and error of this process, and so of those that it starts, go to the
        file during the block; what Python here writes to ``sys.stderr`` is seen all the same."""
        before = [os.dup(number) for number in (1, 2)]
        stderr = sys.stderr
        sys.stderr = os.fdopen(os.dup(before[1]), "w", buffering=1)
        for number in (1, 2):
            os.dup2(self._file.fileno(), number)
        try:
            yield
        finally:
            sys.stderr.close()
            sys.stderr = stderr
            for number, kept in zip((1, 2), before, strict=True):
                os.dup2(kept, number)
                os.close(kept)

    def tail(self) -> list[str]:
        """The last lines."""
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, end - _BYTES))
        return self._file.read().decode(errors="replace").splitlines()[-_LINES:]
