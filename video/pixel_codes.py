"""Pixel codes: the bytes that a processor normalised, which give its float32 pixels to the bit.

    pixels [N, D] float32 -> encode: round(pixel * std + mean), checked -> codes [N, D] uint8
                          <- decode: (code - mean) / std              <-

A quarter of the size. The check makes it exact by construction: pixels that do not come back to the
bit, of another formula or of no bytes at all, have no codes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

_ROWS = 64
"""Rows at a time: what they take stays in the processor's cache."""


@dataclass(frozen=True, slots=True)
class PixelScale:
    """Scale of normalised pixels: ``(code - mean) / std`` in float32, by channel.

    Example:
        PixelScale(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, mean: list[float], std: list[float], rescale: float) -> "PixelScale":
        """The scale of a processor that multiplies by ``rescale`` and normalises, in one step."""
        factor = np.float32(1.0 / rescale)
        both = [tuple((np.asarray(v, np.float32) * factor).tolist()) for v in (mean, std)]
        return cls(*both)

    def columns(self, width: int) -> tuple[Floats, Floats]:
        """Mean and std of each column of ``width``, whose first part is the first channel."""
        of_channel = width // len(self.mean)
        mean, std = (np.asarray(values, np.float32) for values in (self.mean, self.std))
        return np.repeat(mean, of_channel), np.repeat(std, of_channel)


def encode(pixels: Floats, scale: PixelScale) -> Codes | None:
    """Codes of pixels; None if the pixels would not come back to the bit."""
    rows, width = pixels.shape
    if width % len(scale.mean):
        return None
    mean, std = scale.columns(width)
    codes = np.empty((rows, width), np.uint8)
    work = np.empty((_ROWS, width), np.float32)
    for start in range(0, rows, _ROWS):
        block = pixels[start : start + _ROWS]
        room = work[: len(block)]
        np.multiply(block, std, out=room)
        np.add(room, mean, out=room)
        np.rint(room, out=room)
        np.clip(room, 0, 255, out=room)
        code = codes[start : start + _ROWS]
        with np.errstate(invalid="ignore"):  # NaN becomes any code, and is found below
            code[:] = room
        _decode(code, mean, std, room)
        if not np.array_equal(room.view(np.uint32), block.view(np.uint32)):
            return None
    return codes


def decode(codes: Codes, scale: PixelScale) -> Floats:
    """The pixels of codes."""
    mean, std = scale.columns(codes.shape[1])
    pixels = np.empty(codes.shape, np.float32)
    for start in range(0, len(codes), _ROWS):
        _decode(codes[start : start + _ROWS], mean, std, pixels[start : start + _ROWS])
    return pixels


def _decode(codes: Codes, mean: Floats, std: Floats, out: Floats) -> None:
    np.subtract(codes, mean, out=out, dtype=np.float32)
    np.divide(out, std, out=out)
