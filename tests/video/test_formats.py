"""Every format gives the frames that were asked for, at their own times."""

import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.formats import (
    B_FRAMES,
    FORMATS,
    Format,
    frame_numbers,
    write_long,
    write_video,
)
from video import decode as module
from video.address import Window
from video.config import VideoConfig
from video.container import open_video
from video.decode import decode, probe
from video.frame_index import index_by_decoding, index_from_packets
from wire.errors import ClipError

EIGHT = VideoConfig(max_frames=8)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_the_frames_are_those_of_their_times(form: Format, tmp_path: Path) -> None:
    path = write_video(tmp_path / form.name, form)
    probe(path)
    windows = [None, Window(0.5, 1.2)] if form.rate == 30 else [None]
    for window in windows:
        for count in (4, 8, 14, 20):
            clip = decode(path, VideoConfig(max_frames=count), window)
            start = 0.0 if window is None else window.start_s
            due = [round((start + t) * form.rate) for t in clip.timestamps_s]
            assert clip.frames.shape == (count, form.size[1], form.size[0], 3)
            assert due == sorted(set(due))
            assert frame_numbers(clip.frames) == due
            assert clip.native_fps == pytest.approx(form.rate, rel=0.02)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_jumping_gives_what_reading_through_gives(form: Format, tmp_path: Path) -> None:
    path = write_video(tmp_path / form.name, form)
    for count in (6, 14, 30):
        config = VideoConfig(max_frames=count)
        whole = module._choose(index_by_decoding(path), config, None)
        expected = module._clip(module._read_through(path, whole.indices), whole, "")
        clip = decode(path, config)
        assert np.array_equal(clip.frames, expected.frames)
        assert clip.timestamps_s == expected.timestamps_s


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.flv", "a.ts"])
def test_a_jump_lands_on_the_key_frame_itself(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, Format(name, options=B_FRAMES))
    index = index_from_packets(path)
    assert len(index.keys) >= 5
    with open_video(path) as (container, stream):
        for number, key in reversed([*enumerate(index.keys)]):
            landed = next(iter(module._from_key(container, stream, index, number)))
            assert landed.pts == key[0]


def test_a_jump_that_lands_too_late_is_made_again(tmp_path: Path) -> None:
    """Frames are shown more than a GOP after they are decoded, and the container looks for times
    of decoding."""
    frames, source = 60, tmp_path / "a.ts"
    write_video(source, Format("a.ts", options=B_FRAMES), range(frames))
    path = with_earlier_decoding(source, tmp_path / "early.ts", Fraction(20, 30))
    index = index_from_packets(path)
    shown, _ = index.keys[2]
    assert index.keys[3][1] < shown
    with open_video(path) as (container, stream):
        container.seek(shown, stream=stream)
        assert next(container.decode(stream)).pts > shown
        assert next(iter(module._from_key(container, stream, index, 2))).pts <= shown
    assert frame_numbers(module._jump(path, index, range(0, frames, 6))) == [*range(0, frames, 6)]


def with_earlier_decoding(source: Path, target: Path, earlier_s: Fraction) -> Path:
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        first = old.streams.video[0]
        stream = new.add_stream_from_template(first)
        for packet in old.demux(first):
            if packet.size:
                assert packet.dts is not None
                assert packet.time_base is not None
                packet.dts -= round(earlier_s / packet.time_base)
                packet.stream = stream
                new.mux(packet)
    return target


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_a_variable_frame_rate_keeps_every_frame_s_own_time(name: str, tmp_path: Path) -> None:
    ticks = np.cumsum([1 + i % 3 for i in range(40)]).tolist()
    path = write_video(tmp_path / name, Format(name, options={"g": "12", "bf": "3"}), ticks)
    clip = decode(path, EIGHT)
    numbers = frame_numbers(clip.frames)
    expected = [(ticks[i] - ticks[0]) / 30 for i in numbers]
    assert numbers == [i * 39 // 7 for i in range(8)]
    assert clip.timestamps_s == pytest.approx(expected, abs=5e-4)  # mkv has milliseconds
    assert clip.native_fps == pytest.approx(39 / (ticks[-1] - ticks[0]) * 30, rel=0.05)
    assert clip.seconds == pytest.approx((ticks[-1] - ticks[0]) / 30 + 1 / clip.native_fps)
    windowed = decode(path, EIGHT, Window(1.0, 2.0))
    assert windowed.seconds == pytest.approx(1, abs=0.1)
    inside = [i for i, tick in enumerate(ticks) if 1 <= (tick - ticks[0]) / 30 < 2]
    assert windowed.total_frames == len(inside)
    assert set(frame_numbers(windowed.frames)) <= set(inside)


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_times_count_from_the_first_frame(name: str, tmp_path: Path) -> None:
    form = Format(name, options={"g": "12", "bf": "3"})
    clip = decode(write_video(tmp_path / name, form, range(100, 160)), EIGHT)
    assert frame_numbers(clip.frames) == [0, 8, 16, 25, 33, 42, 50, 59]
    assert clip.timestamps_s == pytest.approx(
        [n / 30 for n in (0, 8, 16, 25, 33, 42, 50, 59)], abs=1e-3
    )


def test_a_raw_stream_gets_the_times_of_its_nominal_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "raw.h264", Format("raw.h264", options={"g": "12", "bf": "3"}))
    clip = decode(path, EIGHT)
    assert frame_numbers(clip.frames) == [0, 8, 16, 25, 33, 42, 50, 59]
    assert clip.timestamps_s[1] == pytest.approx(8 / clip.native_fps)


def test_pixels_that_are_not_square_stay_as_they_are_stored(tmp_path: Path) -> None:
    path = tmp_path / "sar.mp4"
    options = {"x264-params": "sar=2/1"}
    write_video(path, Format("sar.mp4", options=options))
    assert decode(path, EIGHT).frames.shape[1:3] == (48, 64)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shortest_clips_can_be_used(count: int, tmp_path: Path) -> None:
    clip = decode(write_video(tmp_path / "short.mp4", Format("short.mp4"), range(count)), EIGHT)
    assert frame_numbers(clip.frames) == [[0, 0], [0, 1], [0, 1]][count - 1]


def test_a_window_ends_before_its_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", Format("a.mp4", rate=10))
    clip = decode(path, VideoConfig(max_frames=20), Window(1.0, 2.0))
    assert frame_numbers(clip.frames) == list(range(10, 20))
    assert clip.timestamps_s == pytest.approx([i / 10 for i in range(10)])
    assert (clip.total_frames, clip.fps) == (10, 10.0)
    to_the_end = decode(path, VideoConfig(max_frames=60), Window(5.0))
    assert frame_numbers(to_the_end.frames) == list(range(50, 60))
    assert decode(path, EIGHT, Window(5.0, 99.0)).total_frames == 10


@pytest.mark.parametrize("window", [Window(6.0), Window(60.0, 70.0), Window(1.01, 1.09)])
def test_a_window_without_a_frame_is_a_clip_error(window: Window, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", Format("a.mp4", rate=10))
    for call in (lambda: decode(path, EIGHT, window), lambda: probe(path, window)):
        with pytest.raises(ClipError, match=rf"a\.mp4: no frame in the time window {window} s"):
            call()


@pytest.mark.parametrize("name", ["hour.mp4", "hour.mkv", "hour.ts"])
def test_an_hour_is_sampled_by_jumps(name: str, tmp_path: Path) -> None:
    path = write_long(tmp_path / name, seconds=3600)
    start = time.process_time()
    clip = decode(path, VideoConfig(max_frames=32))
    late = decode(path, VideoConfig(max_frames=4), Window(3500.0, 3502.0))
    spent = time.process_time() - start
    assert clip.total_frames == 36_000
    assert clip.timestamps_s == pytest.approx([i * 35_999 // 31 / 10 for i in range(32)], abs=2e-3)
    expected = [i * 35_999 // 31 % 100 for i in range(32)]
    assert frame_numbers(clip.frames) == expected
    assert (late.total_frames, late.timestamps_s[0]) == (20, pytest.approx(0.0, abs=1e-3))
    assert spent < 5  # decoding all of it takes longer by a factor of ten


def test_frames_that_change_their_size_are_shown_in_the_first_one_s(tmp_path: Path) -> None:
    small = write_video(tmp_path / "a.ts", Format("a.ts", options={"g": "10"}), range(20))
    large = write_video(tmp_path / "b.ts", Format("b.ts", size=(128, 96)), range(100, 120))
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    clip = decode(path, VideoConfig(max_frames=40))
    assert clip.frames.shape == (40, 48, 64, 3)
    assert frame_numbers(clip.frames) == [*range(20), *range(20)]
