"""Clips that could not be used, one JSON line each, so that a resumed run does not try them again.

ClipError -> {video, sample_id, reason} -> quarantine.jsonl

One bad clip ends no run; too many do, because a run without them is not the run that was asked for.
"""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

from video.address import Address
from wire.errors import ClipError, DataError, TooManyFailures


class Quarantine:
    """Clips to leave out. One process writes; an entry is on disk when ``add`` returns."""

    def __init__(self, path: str | Path, max_clips: int | None = None) -> None:
        """Reads what an earlier run wrote. ``max_clips``: see ``refuse_too_many``.

        Raises DataError if a line of it cannot be read.
        """
        self._path = Path(path)
        self._max_clips = max_clips
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._reasons = self._reload()

    def add(self, video: str, sample_id: str, reason: str) -> bool:
        """Leave a clip out from now on. Returns False if it already was, or its video for it."""
        line = json.dumps({"video": video, "sample_id": sample_id, "reason": reason}) + "\n"
        with self._lock:
            if video in self:
                return False
            with self._path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            self._reasons[video] = reason
        return True

    def refuse_too_many(self) -> None:
        """Raise TooManyFailures if more than ``max_clips`` are left out."""
        count = len({_clip_of(video) for video in list(self._reasons)})
        if self._max_clips is None or count <= self._max_clips:
            return
        video, reason = next(iter(self._reasons.items()))
        raise TooManyFailures(
            f"{count} clips cannot be used, data.max_quarantine_frac allows {self._max_clips}; all "
            f"are in {self._path}, the first is {video}: {reason}; mend them, take them out of the "
            "manifest, or allow more"
        )

    def __contains__(self, video: object) -> bool:
        return video in self._reasons or (
            isinstance(video, str) and _video_of(video) in self._reasons
        )

    def __len__(self) -> int:
        return len(self._reasons)

    def reason(self, video: str) -> str:
        """Why a clip is left out. Raises KeyError if it is not."""
        return self._reasons[video if video in self._reasons else _video_of(video)]

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


def _video_of(video: str) -> str:
    """The video of a narrative, which is left out with it; any other address as it is."""
    if "tokens=" not in video or (source := Address.parse(video)).tokens is None:
        return video
    return str(replace(source, view=None, tokens=None))


def _clip_of(video: str) -> str:
    """The clip of an address: all views of a clip, and its narratives, are one clip."""
    try:
        return str(replace(Address.parse(video), view=None, tokens=None))
    except ClipError:
        return video
