"""Frames are turned and mirrored as a player shows them, pixel by pixel."""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.filter import Graph

from tests.video.boxes import with_matrix
from video.config import VideoConfig
from video.decode import decode
from video.orientation import Orientation, orientation_of

CONFIG = VideoConfig(max_frames=2)
Matrix = tuple[float, float, float, float]
EIGHT: dict[Matrix, tuple[tuple[str, str | None], ...]] = {
    (1, 0, 0, 1): (),
    (-1, 0, 0, 1): (("hflip", None),),
    (1, 0, 0, -1): (("vflip", None),),
    (-1, 0, 0, -1): (("hflip", None), ("vflip", None)),
    (0, 1, -1, 0): (("transpose", "clock"),),
    (0, -1, 1, 0): (("transpose", "cclock"),),
    (0, 1, 1, 0): (("transpose", "cclock_flip"),),
    (0, -1, -1, 0): (("transpose", "clock_flip"),),
}
"""Display matrices (a, b, c, d), and the filters that ffmpeg's autorotate puts in for each."""


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def write_lossless(path: Path, **rotation: Any) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264rgb", rate=30, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        if rotation:
            stream.set_display_rotation(**rotation)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(), format="rgb24")))
        container.mux(stream.encode())
    return path


def as_played(path: Path, filters: tuple[tuple[str, str | None], ...]) -> np.ndarray:
    """The first frame through FFmpeg's own filters."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    graph = Graph()
    nodes = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 30)
        ),
        *(graph.add(name, arguments) for name, arguments in filters),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    graph.vpush(frame)
    return graph.vpull().to_ndarray()


@pytest.mark.parametrize("matrix", EIGHT, ids=str)
@pytest.mark.parametrize("scale", [1, 1.5])
def test_every_turn_and_mirror_is_shown_as_a_player_does(
    matrix: Matrix, scale: float, tmp_path: Path
) -> None:
    path = write_lossless(tmp_path / "a.mp4")
    path.write_bytes(with_matrix(path.read_bytes(), *(scale * one for one in matrix)))
    frames = decode(path, CONFIG).frames
    expected = as_played(path, EIGHT[matrix])
    assert frames.shape[1:] == expected.shape
    assert all(np.array_equal(frame, expected) for frame in frames)


@pytest.mark.parametrize("matrix", EIGHT, ids=str)
def test_each_pixel_is_where_the_matrix_puts_it(matrix: Matrix, tmp_path: Path) -> None:
    """The definition alone: (x, y) is shown at (a x + c y, b x + d y), moved into the picture."""
    a, b, c, d = (int(one) for one in matrix)
    path = write_lossless(tmp_path / "a.mp4")
    path.write_bytes(with_matrix(path.read_bytes(), *matrix))
    y, x = np.mgrid[:48, :64]
    shown_x, shown_y = a * x + c * y, b * x + d * y
    expected = np.zeros((np.ptp(shown_y) + 1, np.ptp(shown_x) + 1, 3), np.uint8)
    expected[shown_y - shown_y.min(), shown_x - shown_x.min()] = noise()
    assert np.array_equal(decode(path, CONFIG).frames[0], expected)


@pytest.mark.parametrize(
    ("degrees", "turns"), [(10, 0), (44, 0), (46, 1), (100, 1), (170, 2), (190, 2), (260, 3)]
)
def test_another_angle_is_taken_to_the_nearest_quarter_turn(
    degrees: int, turns: int, tmp_path: Path
) -> None:
    path = write_lossless(tmp_path / "a.mp4")
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    path.write_bytes(with_matrix(path.read_bytes(), cos, sin, -sin, cos))
    assert np.array_equal(decode(path, CONFIG).frames[0], np.rot90(noise(), -turns))


def test_a_matrix_of_nothing_leaves_the_picture_as_it_is_stored(tmp_path: Path) -> None:
    path = write_lossless(tmp_path / "a.mp4")
    path.write_bytes(with_matrix(path.read_bytes(), 0, 0, 0, 0))
    assert np.array_equal(decode(path, CONFIG).frames[0], noise())


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
@pytest.mark.parametrize(
    ("rotation", "expected"),
    [
        ({"degrees": 90}, lambda picture: np.rot90(picture, 1)),
        ({"degrees": 270}, lambda picture: np.rot90(picture, 3)),
        ({"degrees": 180}, lambda picture: np.rot90(picture, 2)),
    ],
)
def test_turns_that_another_writer_writes_are_applied(
    name: str, rotation: dict[str, Any], expected: Callable[[Any], Any], tmp_path: Path
) -> None:
    path = write_lossless(tmp_path / name, **rotation)
    assert np.array_equal(decode(path, CONFIG).frames[0], expected(noise()))


def test_an_orientation_in_the_stream_itself_counts(tmp_path: Path) -> None:
    """H.264 has a message for it, besides the matrices of containers."""
    path, turned = write_lossless(tmp_path / "a.mp4"), tmp_path / "turned.mkv"
    with av.open(str(path)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        adding = BitStreamFilterContext(
            "h264_metadata=display_orientation=insert:rotate=90:flip=horizontal",
            source.streams.video[0],
        )
        for packet in [*source.demux(video=0), None]:
            for new in adding.filter(packet if packet is None or packet.size else None):
                new.stream = stream
                target.mux(new)
    with av.open(str(turned)) as container:
        assert orientation_of(next(container.decode(video=0))).transposed
    expected = np.rot90(noise()[:, ::-1])  # H.264, D.2.28: flipped, then turned counterclockwise
    assert np.array_equal(decode(turned, CONFIG).frames[0], expected)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_pictures_are_shown_as_their_exif_says(name: str, number: int, tmp_path: Path) -> None:
    from PIL import Image, ImageOps

    exif, orientation_tag = Image.Exif(), 0x112
    exif[orientation_tag] = number
    path = tmp_path / name
    smooth = np.kron(noise()[:6, :8], np.ones((8, 8, 1), np.uint8))
    Image.fromarray(smooth).save(path, exif=exif, quality=95, subsampling=0)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    frame = decode(path, CONFIG).frames[0]
    assert frame.shape == shown.shape
    assert np.abs(frame.astype(int) - shown).max() <= (0 if name == "a.png" else 8)


def test_sizes_change_places_when_the_picture_is_transposed() -> None:
    assert Orientation().size(64, 48) == (64, 48)
    assert Orientation(transposed=True, flipped=True).size(64, 48) == (48, 64)
