"""Segments of many clips in one memory-mapped file: 50,000 clips never stand in memory.

SegmentWriter(path).add(clip key, segments [T, S, H]) ... -> whole or absent
SegmentFile.open(path) -> .read([3, 17]) -> arrays from the disk
                       -> .subset(keys)  -> the same file, other clips

bytes:  float32 values, clip after clip | index (JSON) | 8 bytes: its length | 8 bytes: a mark
"""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire.disk import naming_full_disk
from wire.errors import DataError
from wire.whole_file import whole_file

_MARK = b"SEGMENT1"
_AGAIN = "run the semantic_tokens stage again"

Segments = NDArray[np.float32]


class SegmentWriter:
    """Writer of a segment file, clip after clip; the file appears when the block ends without an
    error."""

    def __init__(self, path: Path, *, tower: str, places: int, width: int) -> None:
        """``tower``: hash of the tower whose features these are; ``places``: S; ``width``: H."""
        self._path, self._shape = path, (places, width)
        self._index: dict[str, int] = {}
        self._header = {"tower": tower, "places": places, "width": width}
        self._open = ExitStack()

    def __enter__(self) -> "SegmentWriter":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._open.enter_context(naming_full_disk(self._path.parent))
        partial = self._open.enter_context(whole_file(self._path))
        self._file = self._open.enter_context(partial.open("wb"))
        return self

    def add(self, clip: str, segments: Segments) -> None:
        """Append a clip's segments ``[T, S, H]``; a clip that comes again is kept once."""
        if segments.ndim != 3 or not len(segments) or segments.shape[1:] != self._shape:
            raise ValueError(
                f"segments of {clip} have the shape {segments.shape}; expected [T >= 1, "
                f"{self._shape[0]}, {self._shape[1]}]"
            )
        if clip in self._index:
            return
        self._index[clip] = len(segments)
        self._file.write(np.ascontiguousarray(segments, np.float32).data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            text = json.dumps(
                self._header | {"clips": list(self._index), "lengths": list(self._index.values())}
            ).encode()
            self._file.write(text + len(text).to_bytes(8, "little") + _MARK)
        self._open.__exit__(kind, error, trace)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SegmentFile:
    """Segments of clips on disk, or of some of a file's clips."""

    path: Path
    tower: str
    """Hash of the tower whose features these are."""
    places: int
    width: int
    clips: tuple[str, ...]
    """Clip keys, in the order of the file or of the subset."""
    offsets: tuple[int, ...]
    """Per clip: its first segment in the file."""
    lengths: tuple[int, ...]
    """Per clip: its segments."""
    values: Segments
    """Segments of all clips of the file, one after another ``[sum of T, S, H]``, on disk."""

    def __len__(self) -> int:
        return len(self.clips)

    @classmethod
    def open(cls, path: Path) -> "SegmentFile":
        """Open a segment file. Raises DataError if it is missing or cut."""
        try:
            header = _index_of(path)
            places, width = int(header["places"]), int(header["width"])
            lengths = tuple(map(int, header["lengths"]))
            shape = (sum(lengths), places, width)
            values = np.memmap(path, np.float32, "r", shape=shape) if lengths else None
        except OSError as error:
            raise DataError(
                f"cannot open the segments {path}: {error.strerror or error}; {_AGAIN}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no whole segment file ({error}); {_AGAIN}") from error
        if values is None:
            raise DataError(f"{path} holds no clips; {_AGAIN} with clips in its manifest")
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        return cls(
            path=path,
            tower=header["tower"],
            places=places,
            width=width,
            clips=tuple(header["clips"]),
            offsets=tuple(starts),
            lengths=lengths,
            values=values,
        )

    def read(self, which: Sequence[int]) -> list[Segments]:
        """Segments ``[T, S, H]`` of the clips at these places, read from the disk now."""
        return [
            np.array(self.values[self.offsets[i] : self.offsets[i] + self.lengths[i]])
            for i in which
        ]

    def subset(self, clips: Sequence[str]) -> "SegmentFile":
        """The same file with these clips alone, in this order. Raises DataError if one is not in
        it."""
        place = {clip: i for i, clip in enumerate(self.clips)}
        absent = [clip for clip in clips if clip not in place]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(clips)} clips have no segments in {self.path}, the first "
                f"is {absent[0]}; {_AGAIN}"
            )
        which = [place[clip] for clip in clips]
        return replace(
            self,
            clips=tuple(clips),
            offsets=tuple(self.offsets[i] for i in which),
            lengths=tuple(self.lengths[i] for i in which),
        )


def _index_of(path: Path) -> dict[str, Any]:
    """The index at the end of a file, checked against the file's size."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 16))
        end = file.read(16)
        length = int.from_bytes(end[:8], "little")
        if end[8:] != _MARK or length + 16 > size:
            raise ValueError("its end is missing")
        file.seek(size - 16 - length)
        index: dict[str, Any] = json.loads(file.read(length))
    wanted = 4 * sum(index["lengths"]) * index["places"] * index["width"]
    if wanted != size - 16 - length:
        raise ValueError(f"{size - 16 - length} bytes of values, expected {wanted}")
    return index
