"""A data set made quite unlike the embedded one: a folder per class, and every clip of another
size, shape, rate, length and codec. (No test file.)"""

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

CLASSES = ("sinks", "rises", "swells")
"""A disc that goes down, one that goes up, one that grows."""

_CODECS = (
    ("libx264", "mp4", "yuv420p"),
    ("libx265", "mp4", "yuv420p10le"),
    ("libvpx-vp9", "webm", "yuv420p"),
    ("libsvtav1", "mkv", "yuv420p"),
    ("mpeg4", "avi", "yuv420p"),
)
_SIZES = ((96, 72), (64, 112), (128, 80), (90, 90), (160, 66))
_RATES = (6, 12, 15, 24, 30)
_SECONDS = (1.0, 1.7, 2.5, 4.0, 6.3)


def make_folder(root: Path, *, per_class: int, seed: int = 0) -> Path:
    """``root/CLASS/clip_K.EXT``. Names tell nothing but the folder."""
    random = np.random.default_rng(seed)
    for label in CLASSES:
        (root / label).mkdir(parents=True)
        for index in range(per_class):
            kind = int(random.integers(len(_CODECS)))
            codec, suffix, pixels = _CODECS[kind]
            width, height = _SIZES[int(random.integers(len(_SIZES)))]
            rate = _RATES[int(random.integers(len(_RATES)))]
            count = max(2, round(rate * _SECONDS[int(random.integers(len(_SECONDS)))]))
            path = root / label / f"clip_{index:03d}.{suffix}"
            with av.open(str(path), "w") as file:
                stream = file.add_stream(codec, rate=rate)
                stream.width, stream.height, stream.pix_fmt = width, height, pixels
                for picture in _pictures(label, count, width, height, random):
                    file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                file.mux(stream.encode(None))
    return root


def _pictures(
    label: str, count: int, width: int, height: int, random: np.random.Generator
) -> list[npt.NDArray[np.uint8]]:
    ground, colour = random.integers(40, 120, 3), random.integers(150, 255, 3)
    left, radius = random.uniform(0.3, 0.7) * width, 0.14 * min(width, height)
    rows, columns = np.mgrid[:height, :width]
    pictures = []
    for step in range(count):
        share = step / (count - 1)
        top = {"sinks": 0.15 + 0.7 * share, "rises": 0.85 - 0.7 * share, "swells": 0.5}[label]
        size = radius * (1 + 1.5 * share) if label == "swells" else radius
        inside = (rows - top * height) ** 2 + (columns - left) ** 2 < size**2
        picture = np.where(inside[..., None], colour, ground) + random.integers(0, 6, (1, 1, 3))
        pictures.append(picture.astype(np.uint8))
    return pictures
