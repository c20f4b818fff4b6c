"""Views of a clip for controls: does a model look, and does order matter to it?

    "clip.mp4#view=shuffled" -> (clip.mp4, View.SHUFFLED) -> decode -> apply -> process

A view changes pixels only: size, number and times of the frames stay, so that a prompt keeps its
length and its positions. Frames are those sampled for the model, moved one by one, not in the
pairs of a temporal patch.
"""

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
        return replace(clip, frames=np.ascontiguousarray(clip.frames[::-1]))
    # sorted by hash: unlike a generator's, this order cannot change with a release of numpy
    order = sorted(range(len(clip.frames)), key=lambda i: stable_hash(content_hash, i))
    shuffled = clip.frames[order]
    if np.array_equal(shuffled, clip.frames):
        shuffled = np.roll(shuffled, 1, axis=0)  # changes it, unless all frames are alike
    return replace(clip, frames=shuffled)
