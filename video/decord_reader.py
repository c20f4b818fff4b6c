"""Reads frames with decord, from files in which it is exact (video/exactness). Its only user.

decord neither says which frame it returned nor fails where it should: what can be asked of it is
held against the index, and a frame that it would replace by another is an error.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from video.frame_index import FrameIndex

_PLACE = re.compile(r"^(\[[\d:]+\] \S+:\d+: )?(\[[^]]*\] ?)?")
"""Clock, line of decord's source and file, with which its messages begin."""
_FAULT_TOLERANCE = 0.0001
"""Share of frames that decord may replace by others: less than one of all that it is given here."""


class DecordFailed(Exception):
    """Reason why decord gave no frames; never leaves the decoder's modules."""


def read_with_decord(
    path: Path, index: "FrameIndex", indices: Sequence[int]
) -> npt.NDArray[np.uint8]:
    """Frames by number, [T, H, W, 3] RGB. ``indices`` do not fall. Raises DecordFailed."""
    single = sorted(set(indices))
    try:
        import decord

        reader = decord.VideoReader(
            str(path.absolute()), ctx=decord.cpu(0), num_threads=1, fault_tol=_FAULT_TOLERANCE
        )
        numbers = {pts: number for number, pts in enumerate(index.pts)}
        keys = [numbers[shown] for shown, _ in index.keys]
        if len(reader) != len(index.pts) or reader.get_key_indices() != keys:
            raise DecordFailed("decord sees other frames in it")
        frames: npt.NDArray[np.uint8] = reader.get_batch(single).asnumpy()
    except DecordFailed:
        raise
    except Exception as error:  # whatever a file brings out in decord: PyAV reads it
        raise DecordFailed(f"decord failed: {_first_line(error)}") from error
    return frames if len(single) == len(indices) else frames[np.searchsorted(single, indices)]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return _PLACE.sub("", lines[0])[:300] if lines else type(error).__name__
