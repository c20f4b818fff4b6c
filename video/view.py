"""Views of a clip for controls: does a model look, and does order matter to it?

    "clip.mp4#view=shuffled" -> (clip.mp4, View.SHUFFLED) -> decode -> apply -> process

A view changes pixels only: size, number and times of the frames stay, so that a prompt keeps its
length and its positions. Frames are those sampled for the model, moved one by one, not in the
pairs of a temporal patch.
"""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import numpy as np

from video.decode import DecodedClip
from wire.errors import ClipError
from wire.types import Sample, stable_hash

_MARK = "#view="
_GREY = 128

Addressed = TypeVar("Addressed", str, Sample)


class View(StrEnum):
    """What is shown instead of the clip. The name is part of the clip key: a view that comes to
    show other pixels needs another name."""

    BLANK = "blank"
    """Grey frames: nothing to see but size and length."""
    SHUFFLED = "shuffled"
    """The same frames in another order, which follows from the file's content alone."""
    REVERSED = "reversed"
    """The last frame first."""


def split_view(address: str | Path) -> tuple[Path, View | None]:
    """The file and the view of an address; without a view, the clip is shown as it is.

    A file whose own name is the whole address wins. Raises ClipError if there is no such view.
    """
    whole = Path(address)
    name, mark, view = whole.name.rpartition(_MARK)
    if not mark or not name or _is_file(whole):
        return whole, None
    try:
        return whole.parent / name, View(view)
    except ValueError as error:
        raise ClipError(
            f"{address} asks for the view {view!r}; known: {', '.join(View)}; "
            f"leave {_MARK}{view} away to see the clip as it is"
        ) from error


def with_view(of: Addressed, view: View | None) -> Addressed:
    """An address, or a sample with its clip, under another view than it has now; none: as it is.

    Raises ClipError if its present view is unknown.
    """
    if isinstance(of, Sample):
        return replace(of, video=with_view(of.video, view))
    path, _ = split_view(of)
    return str(path) if view is None else f"{path}{_MARK}{view}"


def apply_view(view: View, clip: DecodedClip, content_hash: str) -> DecodedClip:
    """What the view shows of a clip. ``content_hash``: of the file, decides the shuffled order."""
    if view is View.BLANK:
        return replace(clip, frames=np.full_like(clip.frames, _GREY))
    if view is View.REVERSED:
        return replace(clip, frames=np.ascontiguousarray(clip.frames[::-1]))
    # sorted by hash: unlike a generator's, this order cannot change with a release of numpy
    order = sorted(range(len(clip.frames)), key=lambda i: stable_hash(content_hash, i))
    shuffled = clip.frames[order]
    if np.array_equal(shuffled, clip.frames):
        shuffled = np.roll(shuffled, 1, axis=0)  # changes it, unless all frames are alike
    return replace(clip, frames=shuffled)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # who reads the file says why it cannot be read
        return False
