"""Orientation of pictures: turns and mirrors a frame as its display matrix asks and players do.

    (x', y') = (a x + c y, b x + d y), from the matrix of the frame -> one of eight orientations

Phones write the matrix instead of turning pixels. Only quarter turns, mirrors and both together
are done: another angle is taken to the nearest of them, and scaling and moving are left aside.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from av import VideoFrame

_MATRIX = "DISPLAYMATRIX"


@dataclass(frozen=True, slots=True, kw_only=True)
class Orientation:
    """Orientation of a stored picture: transposed first, then mirrored."""

    transposed: bool = False
    """Rows become columns: width and height change places."""
    mirrored: bool = False
    """Left becomes right."""
    flipped: bool = False
    """Top becomes bottom."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as shown, of a stored picture; or as stored, of a shown one."""
        return (height, width) if self.transposed else (width, height)

    def applied_to(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A view of a picture [H, W, 3] as it is shown."""
        shown = picture.swapaxes(0, 1) if self.transposed else picture
        return shown[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


def orientation_of(frame: "VideoFrame") -> Orientation:
    """Orientation that a decoded frame asks for."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transposed=True, mirrored=c < 0, flipped=b < 0)
    return Orientation(mirrored=a < 0, flipped=d < 0)


def _display_matrix(frame: "VideoFrame") -> bytes | None:
    from av.sidedata.sidedata import SideData

    while True:
        try:
            data = frame.side_data.get(_MATRIX)  # frame.rotation loses the mirror
        except ValueError as error:
            # PyAV reads none of a frame's side data if it has no name for one of them (EXIF)
            frame = _without_side_data(frame, str(error).split()[0])
            continue
        return bytes(data) if isinstance(data, SideData) else None


def _without_side_data(frame: "VideoFrame", kind: str) -> "VideoFrame":
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1)
    )
    graph.link_nodes(
        source,
        graph.add("sidedata", f"mode=delete:type={int(kind)}"),
        graph.add("buffersink"),
    ).configure()
    graph.vpush(frame)
    return graph.vpull()
