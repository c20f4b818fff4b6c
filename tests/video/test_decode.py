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
from tests.video.formats import Format, write_video
from video import decode as module
from video.address import Window
from video.config import VideoConfig
from video.decode import Decoder, decode, probe
from wire.errors import ClipError

CONFIG = VideoConfig(max_frames=8)
DECODERS: tuple[Decoder, ...] = ("auto", "pyav")
MakeClip = Callable[..., Path]


@pytest.mark.parametrize("rate", [8, 25, Fraction(30000, 1001)])
def test_the_fps_are_those_of_the_frames(make_clip: MakeClip, rate: int | Fraction) -> None:
    clip = decode(make_clip(frames=20, rate=rate), CONFIG)
    assert clip.fps == pytest.approx(7 / 19 * float(rate), rel=0.02)
    assert clip.native_fps == pytest.approx(float(rate))


def test_the_right_frames_are_taken(make_clip: MakeClip) -> None:
    clip = decode(make_clip(frames=20), CONFIG)  # frame i has brightness 10 * i
    seen = clip.frames[:, 40, 40].mean(axis=1) / 10
    assert seen.round().astype(int).tolist() == [0, 2, 5, 8, 10, 13, 16, 19]
    assert clip.frame_indices == (0, 2, 5, 8, 10, 13, 16, 19)


def test_fps_sampling_gives_that_fps(make_clip: MakeClip) -> None:
    clip = decode(make_clip(frames=40, rate=20), VideoConfig(fps=4))
    assert (len(clip.frames), clip.fps) == (8, 4.0)


def test_one_frame_is_doubled(make_clip: MakeClip) -> None:
    clip = decode(make_clip(frames=1), CONFIG)
    assert len(clip.frames) == 2
    assert np.array_equal(clip.frames[0], clip.frames[1])
    assert clip.fps > 0


def test_an_odd_count_is_made_even(make_clip: MakeClip) -> None:
    clip = decode(make_clip(frames=7), CONFIG)
    assert (len(clip.frames), clip.total_frames, clip.fps) == (6, 7, 8.0)


def test_a_picture_that_turns_on_the_way_keeps_the_size_of_the_first(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "a.mp4", Format("a.mp4"), range(4))
    turned = tmp_path / "b.mp4"
    turned.write_bytes(with_matrix(plain.read_bytes(), 0, 1, -1, 0))
    with av.open(str(plain)) as one, av.open(str(turned)) as other:
        met = [(0, next(one.decode(video=0))), (1, next(other.decode(video=0)))]
    pictures = module._pictures(iter(met), [0, 1])
    assert pictures.shape == (2, 48, 64, 3)
    assert np.ptp(pictures[0], axis=0).max() == 0  # upright stripes
    assert np.ptp(pictures[1], axis=1).max() == 0  # they lie


def with_colours(source: Path, target: Path, codec: str, setting: str) -> Path:
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        change = BitStreamFilterContext(f"{codec}_metadata={setting}", old.streams.video[0], stream)
        for packet in [*old.demux(video=0), None]:
            for changed in change.filter(packet if packet is None or packet.size else None):
                changed.stream = stream
                new.mux(changed)
    return target


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_a_matrix_of_colours_that_nobody_defines_is_as_none(
    decoder: Decoder, tmp_path: Path
) -> None:
    plain = write_video(tmp_path / "a.mkv", Format("a.mkv", "libvpx-vp9"))
    odd = with_colours(plain, tmp_path / "b.mkv", "vp9", "color_space=6")
    with av.open(str(odd)) as container:
        assert next(container.decode(video=0)).colorspace == 3
    probe(odd)
    expected = decode(plain, CONFIG, decoder="pyav").frames
    assert np.array_equal(decode(odd, CONFIG, decoder=decoder).frames, expected)


@pytest.mark.parametrize(("number", "name"), [(8, "YCgCo"), (10, "BT.2020 with"), (14, "ICtCp")])
def test_colours_that_cannot_be_converted_are_refused_at_the_start(
    number: int, name: str, tmp_path: Path
) -> None:
    plain = write_video(tmp_path / "a.mkv", Format("a.mkv"))
    path = with_colours(plain, tmp_path / "b.mkv", "h264", f"matrix_coefficients={number}")
    for call in (lambda: decode(path, CONFIG), lambda: probe(path)):
        with pytest.raises(ClipError, match=f"its colours are coded as {name}"):
            call()


@pytest.mark.parametrize("number", [1, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("full_range", [0, 1])
def test_colours_are_those_of_ffmpeg_s_own_filter(
    number: int, full_range: int, tmp_path: Path
) -> None:
    def colourful(index: int) -> np.ndarray:
        blocks = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        return np.kron(blocks, np.ones((8, 8, 1), np.uint8))

    plain = tmp_path / "a.mkv"
    with av.open(str(plain), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(4):
            frame = av.VideoFrame.from_ndarray(colourful(index), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    setting = f"matrix_coefficients={number}:video_full_range_flag={full_range}"
    path = with_colours(plain, tmp_path / "b.mkv", "h264", setting)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (number, 1 + full_range)
    graph = Graph()
    source = graph.add_buffer(width=64, height=48, format=frame.format, time_base=Fraction(1, 30))
    nodes = [graph.add("scale", "flags=bilinear"), graph.add("format", "rgb24")]
    graph.link_nodes(source, *nodes, graph.add("buffersink")).configure()
    graph.vpush(frame)
    assert np.array_equal(decode(path, CONFIG).frames[0], graph.vpull().to_ndarray())


def test_damage_on_the_way_is_said_with_its_place(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", Format("a.mp4", options={"g": "60", "bf": "0"}))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        entry = container.streams.video[0].index_entries[40]
    data[entry.pos : entry.pos + entry.size] = b"\xff" * entry.size
    path.write_bytes(data)
    words = r"it is damaged at 1\.33 s \(Invalid data .*\); download or copy it anew"
    for decoder in DECODERS:
        with pytest.raises(ClipError, match=words):
            decode(path, CONFIG, decoder=decoder)


def test_damage_behind_a_jump_is_not_looked_for_again_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"g": "10", "bf": "0", "sc_threshold": "0"}
    path = write_video(tmp_path / "a.mp4", Format("a.mp4", options=options))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        entry = container.streams.video[0].index_entries[47]
    data[entry.pos : entry.pos + entry.size] = b"\xff" * entry.size
    path.write_bytes(data)
    monkeypatch.setattr(module, "index_by_decoding", lambda path: pytest.fail("read through"))
    with pytest.raises(ClipError, match=r"it is damaged at 1\.57 s"):
        decode(path, VideoConfig(max_frames=4), Window(1.6), decoder="pyav")
    assert decode(path, VideoConfig(max_frames=2), Window(0, 1), decoder="pyav").total_frames == 30


def test_probe_accepts_a_whole_clip(make_clip: MakeClip) -> None:
    probe(make_clip())
