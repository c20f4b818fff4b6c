"""Views of a clip for controls: does a model look, and does order matter to it?

    "clip.mp4#view=shuffled" -> (clip.mp4, View.SHUFFLED) -> decode -> apply -> process

A view changes pixels only: size, number and times of the frames stay, so that a prompt keeps its
length and its positions. Frames are those sampled for the model, moved one by one, not in the
pairs of a temporal patch.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from video.address import View
from video.decode import DecodedClip
from wire.types import stable_hash

_GREY = 128


def apply_view(view: View, clip: DecodedClip, content_hash: str) -> DecodedClip:
    """A clip under a view. ``content_hash``: of the file, decides the shuffled order."""
    if view is View.BLANK:
        return replace(clip, frames=np.full_like(clip.frames, _GREY))
    if view is View.REVERSED:
        return _in_order(clip, range(len(clip.frames) - 1, -1, -1))
    # sorted by hash: unlike a generator's, this order cannot change with a release of numpy
    order = sorted(range(len(clip.frames)), key=lambda i: stable_hash(content_hash, i))
    shuffled = _in_order(clip, order)
    if np.array_equal(shuffled.frames, clip.frames):
        # changes it, unless all frames are alike
        return _in_order(clip, [order[-1], *order[:-1]])
    return shuffled


def _in_order(clip: DecodedClip, order: Sequence[int]) -> DecodedClip:
    indices = tuple(clip.frame_indices[i] for i in order)
    return replace(clip, frames=clip.frames[list(order)], frame_indices=indices)
