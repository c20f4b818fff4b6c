"""Number of workers that a user asks for while a run goes on, in a file of the run directory.

`deepintuit scale RUN --workers N` -> RUN/control/workers.json -> supervisor, at its next look

The file is opened anew each time: what is open or remembered may be old on a network file system.
"""

import logging
from pathlib import Path

from wire.strict_json import from_json
from wire.whole_file import replace_json

WORKERS_FILE = Path("control") / "workers.json"

log = logging.getLogger(__name__)


def ask_for_workers(run_dir: Path, workers: int) -> None:
    """Ask a run for so many workers."""
    path = run_dir / WORKERS_FILE
    path.parent.mkdir(exist_ok=True)
    replace_json(path, {"workers": workers})


class DesiredWorkers:
    """The number that is asked for now."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / WORKERS_FILE
        self._warned: bytes | None = None

    def read(self) -> int | None:
        """The number; None where nobody has asked, or the file is not as `scale` writes it, which
        is warned of once."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return None
        try:
            workers = from_json(data.decode())["workers"]
            if isinstance(workers, int) and not isinstance(workers, bool) and workers > 0:
                return workers
        except (ValueError, KeyError, TypeError):
            pass
        if data != self._warned:
            self._warned = data
            log.warning(
                "%s has %.100r, expected a number of workers above 0; write it with "
                "`deepintuit scale`",
                self._path,
                data,
            )
        return None
