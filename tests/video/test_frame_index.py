"""The index has the frames that a player shows, at their times, whatever headers say."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.video.boxes import TABLES, add_to_count, change, remove, with_edits
from tests.video.formats import B_FRAMES, Format, frame_numbers, write_video
from video import frame_index
from video.address import Window
from video.config import VideoConfig
from video.decode import DecodedClip, decode, probe
from video.frame_index import (
    FrameIndex,
    Lost,
    StreamFacts,
    index_by_decoding,
    index_from_packets,
    index_of,
)

EIGHT = VideoConfig(max_frames=8)
ALL = VideoConfig(max_frames=200)
MakeClip = Callable[..., Path]
NO_B = {"g": "12", "bf": "0"}


def usable(path: Path, config: VideoConfig = ALL) -> DecodedClip:
    """The clip of a file that passes at the start, too."""
    probe(path)
    probe(path, Window(0.0, 0.5))
    return decode(path, config)


def as_decoded(path: Path) -> list[int]:
    """Numbers of all frames that FFmpeg itself shows."""
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return frame_numbers(np.stack(pictures))


def test_packets_tell_what_decoding_finds(make_clip: MakeClip) -> None:
    path = make_clip(frames=40, options={"g": "10", "bf": "2"})
    index, decoded = index_from_packets(path), index_by_decoding(path)
    assert index.pts == decoded.pts
    assert len(index.keys) >= 4
    assert decoded.facts is None
    facts = facts_of(index)
    assert (facts.container, facts.codec) == ("mov,mp4,m4a,3gp,3g2,mj2", "h264")
    assert (facts.pixel_format, facts.is_interlaced, facts.is_upright) == ("yuv420p", False, True)
    assert sorted(packet.pts for packet in facts.packets if packet.pts is not None) == index.pts
    assert [packet.pts for packet in facts.packets] != index.pts  # in the order of the file
    assert sum(packet.is_key for packet in facts.packets) == len(index.keys)
    assert not any(packet.is_discarded for packet in facts.packets)


def test_headers_of_pictures_are_read_in_the_same_pass(make_clip: MakeClip) -> None:
    path = make_clip(frames=40, options={"g": "10", "bf": "2"})
    facts = facts_of(index_of(path, with_headers=True))
    assert (facts.height, facts.video_streams, facts.is_fragmented) == (48, 1, False)
    pictures = [packet.picture for packet in facts.packets]
    assert all(one is not None and one.shows_one and one.keeps_format for one in pictures)
    assert list(facts.seek_times) == [packet.dts for packet in facts.packets if packet.is_key]
    assert facts_of(index_of(path)).packets[0].picture is None


def facts_of(index: FrameIndex) -> StreamFacts:
    assert index.facts is not None
    return index.facts


@pytest.mark.parametrize("options", [NO_B, B_FRAMES], ids=["no_b", "b"])
@pytest.mark.parametrize(
    ("edits", "shown"),
    [
        ([(2, 0)], range(60)),
        ([(2, 2)], range(60, 120)),
        ([(1, 1.5)], range(45, 75)),
        ([(0.5, None), (1, 1.5)], range(45, 75)),
        ([(1, 0), (1, 3)], [*range(30), *range(90, 120)]),
        ([(1, 2), (1, 0)], [*range(60, 90), *range(30)]),
    ],
    ids=["end", "start", "both", "empty_first", "middle", "other_order"],
)
def test_frames_hidden_behind_an_edit_list_are_not_the_clip(
    edits: Any, shown: Any, options: dict[str, str], tmp_path: Path
) -> None:
    path = write_video(tmp_path / "a.mp4", Format("a.mp4", options=options), range(120))
    delay = options is B_FRAMES and 2 / 30
    moved = [(length, at if at is None else at + delay) for length, at in edits]
    path.write_bytes(with_edits(path.read_bytes(), *moved))
    clip = usable(path)
    assert frame_numbers(clip.frames) == as_decoded(path)[: len(clip.frames)]
    if options is NO_B:
        assert frame_numbers(clip.frames) == list(shown)
        assert clip.timestamps_s == pytest.approx([i / 30 for i in range(len(shown))], abs=2e-3)


@pytest.mark.parametrize("table", ["stts", "stsz", "both"])
def test_a_header_that_lists_a_frame_too_many_is_not_believed(table: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", Format("a.mp4", options=NO_B))
    data = path.read_bytes()
    if table != "stts":
        data = add_to_count(data, b"stsz", 8)
        data = change(data, (*TABLES, b"stsz"), lambda inner: inner + b"\0\0\0\x28")
    if table != "stsz":
        data = add_to_count(data, b"stts", 8)
    path.write_bytes(data)
    assert frame_numbers(usable(path).frames) == list(range(60))


def test_a_last_frame_beyond_the_end_of_the_file_is_none(tmp_path: Path) -> None:
    form = Format("a.mp4", options={**NO_B, "movflags": "faststart"})
    path = write_video(tmp_path / "a.mp4", form, range(61))
    data = path.read_bytes()
    with av.open(str(path)) as container:
        last = container.streams.video[0].index_entries[-1]
    path.write_bytes(data[: last.pos])
    assert frame_numbers(usable(path).frames) == list(range(60))


@pytest.mark.parametrize(("codec", "pixels"), [("mpeg4", "yuv420p"), ("mjpeg", "yuvj420p")])
def test_frames_that_a_recorder_dropped_are_not_missed(
    codec: str, pixels: str, tmp_path: Path
) -> None:
    """AVI has an empty chunk for each, and its header counts them."""
    ticks = [0, 1, 2, 5, 6, 7, 8, 12, 13, *range(14, 40)]
    path = write_video(tmp_path / "a.avi", Format("a.avi", codec, pixels), ticks)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 40
    clip = usable(path)
    assert frame_numbers(clip.frames) == list(range(34))  # an even number of the 35
    assert clip.timestamps_s == pytest.approx([tick / 30 for tick in ticks[:34]])


@pytest.mark.parametrize("gap", [1, 20])
def test_an_avi_with_b_frames_shows_its_frames_in_order(gap: int, tmp_path: Path) -> None:
    """AVI has no times of showing: decoded frames carry those of others."""
    ticks = np.cumsum(([1] * 7 + [gap]) * 5).tolist()
    options = {"g": "7", "x264-params": "open-gop=1:bframes=2:b-pyramid=strict"}
    path = write_video(tmp_path / "a.avi", Format("a.avi", options=options), ticks)
    for count in (2, 4, 6, 14, 40):
        clip = usable(path, VideoConfig(max_frames=count))
        assert frame_numbers(clip.frames) == [i * 39 // (count - 1) for i in range(count)]


@pytest.mark.parametrize("frames", [range(5, 6), range(5, 8), range(60, 61), range(1)], ids=str)
def test_samples_without_a_byte_are_frames_that_were_dropped(frames: range, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", Format("a.mp4", options=NO_B))
    data, place, count = path.read_bytes(), frames.start, len(frames)

    def sizes(inner: bytes) -> bytes:
        at = 12 + 4 * place
        return inner[:at] + bytes(4 * count) + inner[at:]

    data = change(add_to_count(data, b"stsz", 8, count), (*TABLES, b"stsz"), sizes)
    data = add_to_count(add_to_count(data, b"stts", 8, count), b"stsc", 12, count)
    path.write_bytes(with_edits(data, (3, 0)))
    clip = usable(path)
    assert frame_numbers(clip.frames) == list(range(60))
    times = [i + count * (i >= place) for i in range(60)]
    assert clip.timestamps_s == pytest.approx([(t - times[0]) / 30 for t in times], abs=1e-3)


def remux(source: Path, target: Path, edit: Callable[[int, Any], Any]) -> Path:
    """The packets in another file; ``edit`` may change one, and drops it if it returns False."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        first = old.streams.video[0]
        stream = new.add_stream_from_template(first)
        for number, packet in enumerate(packet for packet in old.demux(first) if packet.size):
            if edit(number, packet) is not False:
                packet.stream = stream
                new.mux(packet)
    return target


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.mp4"])
def test_a_recording_that_begins_between_key_frames_begins_at_the_first(
    name: str, tmp_path: Path
) -> None:
    whole = write_video(tmp_path / "whole.ts", Format("a.ts", options=B_FRAMES))
    path = remux(whole, tmp_path / name, lambda number, _: number >= 17)
    clip = usable(path)
    first = frame_numbers(clip.frames)[0]
    assert first in (20, 21, 22, 23, 24)
    assert frame_numbers(clip.frames) == as_decoded(path)[: len(clip.frames)]
    assert clip.timestamps_s == pytest.approx(
        [(number - first) / 30 for number in frame_numbers(clip.frames)], abs=1e-3
    )


def test_a_transport_stream_that_begins_within_a_packet_is_read_on(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.ts", Format("a.ts", options=B_FRAMES), range(100))
    path.write_bytes(path.read_bytes()[188 * 40 + 55 :])
    clip = usable(path)
    numbers = frame_numbers(clip.frames)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert numbers[-1] in (98, 99)


@pytest.mark.parametrize("second", [range(40), range(1000, 1040)], ids=["back", "leap"])
def test_joined_recordings_are_one_after_the_other(second: range, tmp_path: Path) -> None:
    one = write_video(tmp_path / "1.ts", Format("1.ts", options=B_FRAMES))
    two = write_video(tmp_path / "2.ts", Format("2.ts", options=B_FRAMES), second)
    path = tmp_path / "joined.ts"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    clip = usable(path)
    assert frame_numbers(clip.frames) == [*range(60), *range(40)]
    assert clip.timestamps_s == pytest.approx([i / 30 for i in range(100)], abs=1e-3)
    assert clip.native_fps == pytest.approx(30)


def test_frames_with_the_same_time_are_told_apart(tmp_path: Path) -> None:
    """A recorder that stamps two frames at once, and a camera of 2000 Hz in milliseconds."""
    plain = write_video(tmp_path / "plain.mkv", Format("plain.mkv", options=NO_B))

    def stamp(number: int, packet: Any) -> None:
        number -= number % 4 == 3
        packet.pts = packet.dts = round(number / 30 / packet.time_base)

    clip = usable(remux(plain, tmp_path / "twice.mkv", stamp))
    assert frame_numbers(clip.frames) == list(range(60))
    assert clip.timestamps_s[:59] == pytest.approx([i / 30 for i in range(59)], abs=1e-3)
    assert list(clip.timestamps_s) == sorted(set(clip.timestamps_s))

    fast = write_video(tmp_path / "fast.mkv", Format("fast.mkv", rate=2000, options=NO_B))
    times = usable(fast).timestamps_s
    assert times == pytest.approx([i / 2000 for i in range(60)], abs=1e-3)
    assert list(times) == sorted(set(times))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.h264", "libx264"),
        ("a.hevc", "libx265"),
        ("a.m1v", "mpeg1video"),
        ("a.m2v", "mpeg2video"),
    ],
)
def test_a_raw_stream_gets_the_times_of_the_rate_in_it(
    name: str, codec: str, tmp_path: Path
) -> None:
    """FFmpeg takes it for one of 25 Hz, and counts anew after a jump."""
    path = write_video(tmp_path / name, Format(name, codec, options={"g": "12"}))
    clip = usable(path, EIGHT)
    numbers = frame_numbers(clip.frames)
    assert numbers == [0, 8, 16, 25, 33, 42, 50, 59]
    assert clip.timestamps_s == pytest.approx([number / 30 for number in numbers])
    assert clip.native_fps == 30


def test_key_flags_that_are_wrong_do_not_change_the_frames(tmp_path: Path) -> None:
    """An mp4 without a table of key frames says that all are; MPEG-4 decodes what it gets."""
    path = write_video(tmp_path / "a.mp4", Format("a.mp4", "mpeg4", options={"g": "12"}))
    path.write_bytes(remove(path.read_bytes(), (*TABLES, b"stss")))
    assert len(index_from_packets(path).keys) == 60
    assert frame_numbers(usable(path, EIGHT).frames) == [0, 8, 16, 25, 33, 42, 50, 59]


@pytest.mark.parametrize("name", ["a.swf", "a.y4m", "a.ivf", "a.nut", "a.asf"])
def test_formats_that_cannot_jump_or_are_rare_are_read_all_the_same(
    name: str, tmp_path: Path
) -> None:
    codecs = {"a.swf": "mjpeg", "a.y4m": "wrapped_avframe", "a.ivf": "libvpx", "a.asf": "wmv2"}
    pixels = "yuvj420p" if name == "a.swf" else "yuv420p"
    form = Format(name, codecs.get(name, "mpeg4"), pixels)
    path = write_video(tmp_path / name, form)
    clip = usable(path, EIGHT)
    assert frame_numbers(clip.frames) == [0, 8, 16, 25, 33, 42, 50, 59]
    assert clip.timestamps_s == pytest.approx(
        [n / 30 for n in (0, 8, 16, 25, 33, 42, 50, 59)], abs=2e-3
    )


def test_the_index_of_a_file_with_many_windows_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def counted(path: Path, with_headers: bool) -> FrameIndex:
        made.append(path)
        return index_from_packets(path, with_headers)

    monkeypatch.setattr(frame_index, "index_from_packets", counted)
    path = write_video(tmp_path / "a.mp4", Format("a.mp4", rate=10))
    for start in range(4):
        assert decode(path, EIGHT, Window(start, start + 1.0)).total_frames == 10
    assert made == [path]
    write_video(path, Format("a.mp4", rate=10), range(20))
    assert len(index_of(path).pts) == 20


def test_packets_without_times_are_not_believed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "raw.h264", Format("raw.h264", options=NO_B))
    with pytest.raises(Lost):
        index_from_packets(path)
    assert index_of(path).tick == Fraction(1, 30)
