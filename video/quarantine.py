"""Clips that could not be used, one JSON line each, so that a resumed run does not try them again.

ClipError -> {video, sample_id, reason} -> quarantine.jsonl
"""

import json
import os
import threading
from pathlib import Path

from wire.errors import DataError


class Quarantine:
    """The clips to leave out. One process writes; an entry is on disk when ``add`` returns."""

    def __init__(self, path: str | Path) -> None:
        """Reads what an earlier run wrote. Raises DataError if a line of it cannot be read."""
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._reasons = self._reload()

    def add(self, video: str, sample_id: str, reason: str) -> bool:
        """Leave a clip out from now on. Returns False if it already was."""
        line = json.dumps({"video": video, "sample_id": sample_id, "reason": reason}) + "\n"
        with self._lock:
            if video in self._reasons:
                return False
            with self._path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            self._reasons[video] = reason
        return True

    def __contains__(self, video: object) -> bool:
        return video in self._reasons

    def __len__(self) -> int:
        return len(self._reasons)

    def reason(self, video: str) -> str:
        """Why a clip is left out. Raises KeyError if it is not."""
        return self._reasons[video]

    def _reload(self) -> dict[str, str]:
        if not self._path.exists():
            return {}
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # killed while writing its last line: that clip will be met again
            os.truncate(self._path, whole)
        reasons: dict[str, str] = {}
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                entry = json.loads(line)
                reasons.setdefault(entry["video"], entry["reason"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self._path} line {number} is not a quarantine entry; remove the line"
                ) from error
        return reasons
