"""decord is asked only where it gives what PyAV gives: random clips, planted faults."""

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.video.exactness.planted import (
    CLOSED,
    Copy,
    encode,
    hidden_vp8,
    joined,
    late_pyramid,
    rewritten,
    with_decord,
    without_reordering,
)
from tests.video.exactness.random_clips import KINDS, Kind, write_random
from video.address import Window
from video.decode import DecodedClip, Decoder, decode
from video.exactness.by_packets import NO_TIMES, why_not_decord
from video.frame_index import FrameIndex, Lost, index_from_packets
from video.sampling import FrameSpec
from wire.errors import ClipError

INTRA_REFRESH = {"x264-params": "intra-refresh=1:keyint=12:ref=1:bframes=0"}
OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:keyint=12:scenecut=0"}
NO_B_FRAMES = {"x264-params": "keyint=12:bframes=0:ref=1"}
REPEATED = {"x264-params": "keyint=12:bframes=2:repeat-headers=1"}
VPX = {"deadline": "realtime", "g": "20"}
HEVC = {"x265-params": "log-level=none:keyint=12:bframes=4"}
MPEG4 = {"g": "12", "bf": "2"}


def test_twenty_kinds_give_the_same_pixels_and_times_both_ways(tmp_path: Path) -> None:
    seen = Counter[str]()
    for kind in KINDS:
        rng = random.Random(f"{kind.name}-first")
        seen += compare(write_random(tmp_path, kind, rng, count=40), kind, rng, tries=2)
    assert len(KINDS) >= 20
    assert seen["decord"] >= 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_hundreds_of_random_clips_give_the_same_both_ways(kind: Kind, tmp_path: Path) -> None:
    seen = Counter[str]()
    for number in range(25):
        rng = random.Random(f"{kind.name}-{number}")
        path = write_random(tmp_path, kind, rng)
        seen += compare(path, kind, rng, tries=3)
        path.unlink()
    assert seen.total() >= 20
    if kind.decord:
        assert seen["decord"] >= 0.7 * seen.total()


def compare(path: Path, kind: Kind, rng: random.Random, tries: int) -> Counter[str]:
    """Random samplings and windows by PyAV alone, and by decord where it may."""
    seen = Counter[str]()
    for _ in range(tries):
        spec = FrameSpec(
            fps=rng.choice((None, None, 2.0, 7.0)),
            min_frames=2,
            max_frames=rng.choice((2, 4, 8, 16, 32, 90)),
        )
        window = rng.choice((None, None, Window(0.3, 1.1), Window(1.0)))
        expected, clip = (result(path, spec, window, by) for by in ("pyav", "auto"))
        if isinstance(clip, str) or isinstance(expected, str):
            assert clip == expected  # no frame in the window; an avi that counts wrongly
            continue
        assert np.array_equal(clip.frames, expected.frames), (path.name, spec, window)
        assert clip.timestamps_s == expected.timestamps_s
        assert (clip.fps, clip.total_frames) == (expected.fps, expected.total_frames)
        assert kind.decord is not False or clip.not_by_decord is not None
        seen["decord" if clip.not_by_decord is None else "pyav"] += 1
    return seen


def result(path: Path, spec: FrameSpec, window: Window | None, by: Decoder) -> DecodedClip | str:
    """The clip, or why there is none."""
    try:
        return decode(path, spec, window, by)
    except ClipError as error:
        return str(error)


# Each file breaks one rule. Where decord alone gives wrong pictures for it, that is shown.


def two_hidden(packets: list[Copy]) -> list[Copy]:
    for packet in (packets[7], packets[31]):
        packet.data = hidden_vp8(packet.data)
    return packets


def hidden_vp9_key(packets: list[Copy]) -> list[Copy]:
    """The muxer joins it with the frame after it, and its list of key frames lacks it."""
    hidden = next(packet for packet in packets[1:] if packet.is_key)
    hidden.data = bytes([hidden.data[0] & ~2]) + hidden.data[1:]
    return packets


def two_pictures_in_one(packets: list[Copy]) -> list[Copy]:
    packets[6].data += packets[7].data
    return packets[:7] + packets[8:]


def key_frame_shown_late(packets: list[Copy]) -> list[Copy]:
    key = [i for i, packet in enumerate(packets) if packet.is_key][1]
    step = packets[1].pts - packets[0].pts
    packets[key].pts, packets[key + 1].pts = packets[key + 1].pts, packets[key].pts
    for packet in packets:
        packet.dts -= 5 * step
    return packets


def key_frame_not_listed(packets: list[Copy]) -> list[Copy]:
    [packet for packet in packets if packet.is_key][1].is_key = False
    return packets


def began_earlier(packets: list[Copy]) -> list[Copy]:
    """An edit list hides what is before time 0."""
    start = sorted(packet.pts for packet in packets)[7]
    for packet in packets:
        packet.pts, packet.dts = packet.pts - start, packet.dts - start
    return packets


def plain(path: Path) -> Path:
    return encode(path)


def no_b_frames(path: Path) -> Path:
    return encode(path, options=NO_B_FRAMES)


def vp8(path: Path) -> Path:
    return encode(path, "libvpx", VPX)


def vp9(path: Path) -> Path:
    return encode(path, "libvpx-vp9", VPX)


def two_sizes(codec: str, options: dict[str, str], ending: str) -> Callable[[Path], Path]:
    return lambda folder: joined(
        encode(folder / f"small.{ending}", codec, options),
        encode(folder / f"large.{ending}", codec, options, size=(96, 80)),
        folder / f"joined.{ending}",
    )


WRONG: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "transport stream": ("container is mpegts", lambda f: plain(f / "a.ts")),
    "mpeg4": ("codec is mpeg4", lambda f: encode(f / "a.mp4", "mpeg4", MPEG4)),
    "hevc": ("codec is hevc", lambda f: encode(f / "a.mp4", "libx265", HEVC)),
    "10 bit": ("pixels are yuv420p10le", lambda f: encode(f / "a.mp4", pixels="yuv420p10le")),
    "odd height": (
        "height is odd",
        lambda f: encode(f / "a.webm", "libvpx-vp9", VPX, size=(80, 47)),
    ),
    "interlaced": (
        "is interlaced",
        lambda f: encode(f / "a.mp4", options={"x264-params": "tff=1:keyint=12"}),
    ),
    "open gop": ("need earlier ones", lambda f: encode(f / "a.mp4", options=OPEN_GOP)),
    "intra refresh": ("need earlier ones", lambda f: encode(f / "a.mp4", options=INTRA_REFRESH)),
    "h264 sizes": ("size or coding", two_sizes("libx264", REPEATED, "mp4")),
    "vp8 sizes": ("size or coding", two_sizes("libvpx", VPX, "webm")),
    "vp9 sizes": ("size or coding", two_sizes("libvpx-vp9", VPX, "webm")),
    "edit list": (
        "edit list",
        lambda f: rewritten(
            plain(f / "a.mp4"),
            f / "b.mp4",
            began_earlier,
            container={"avoid_negative_ts": "disabled"},
        ),
    ),
    "begins between": (
        NO_TIMES,
        lambda f: rewritten(no_b_frames(f / "a.mp4"), f / "b.mkv", lambda packets: packets[5:]),
    ),
    "hidden vp8": (
        "exactly one picture",
        lambda f: rewritten(vp8(f / "a.webm"), f / "b.webm", two_hidden),
    ),
    "hidden vp9 key": (
        "lists other key frames",
        lambda f: rewritten(vp9(f / "a.webm"), f / "b.webm", hidden_vp9_key),
    ),
    "key not listed": (
        "lists other key frames",
        lambda f: rewritten(vp8(f / "a.webm"), f / "b.webm", key_frame_not_listed),
    ),
    "key shown late": (
        "GOPs are open",
        lambda f: rewritten(no_b_frames(f / "a.mp4"), f / "b.mp4", key_frame_shown_late),
    ),
    "reordering not stated": (
        NO_TIMES,
        lambda f: rewritten(late_pyramid(f / "a.mp4"), f / "b.mkv", header=without_reordering),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_decord_reads_wrongly_is_left_to_pyav(name: str, tmp_path: Path) -> None:
    reason, make = WRONG[name]
    path = make(tmp_path)
    assert matches(reason, reason_of(path)), reason_of(path)
    assert gives_wrong_pictures(path), "this clause is not needed any more?"


def gives_wrong_pictures(path: Path) -> bool:
    for count in (12, 20):
        clip = decode(path, FrameSpec(fps=None, min_frames=2, max_frames=count), None, "pyav")
        total = clip.total_frames
        indices = sorted({int(i * (total - 1) / (count - 1)) for i in range(count)})
        try:
            frames = with_decord(path, indices)
        except Exception:  # noqa: BLE001  an error is no wrong picture
            continue
        if frames.shape != clip.frames.shape or not np.array_equal(frames, clip.frames):
            return True
    return False


def matches(reason: str, said: str | None) -> bool:
    return said is not None and re.search(reason, said) is not None


REFUSED: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "fragments": (
        "fragmented",
        lambda f: encode(f / "a.mp4", container={"movflags": "frag_keyframe+empty_moov"}),
    ),
    "4:4:4": ("pixels are yuv444p", lambda f: encode(f / "a.mp4", pixels="yuv444p")),
    "may be interlaced": (
        "may be interlaced",
        lambda f: encode(f / "a.mp4", options={"x264-params": "fake-interlaced=1:keyint=12"}),
    ),
    "turned": (
        "turned or mirrored",
        lambda f: encode(f / "a.mp4", prepare=lambda stream: stream.set_display_rotation(180)),
    ),
    "two in one packet": (
        "exactly one picture",
        lambda f: rewritten(no_b_frames(f / "a.mp4"), f / "b.mp4", two_pictures_in_one),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_need_not_be_read_the_same_is_left_to_pyav(name: str, tmp_path: Path) -> None:
    reason, make = REFUSED[name]
    assert matches(reason, reason_of(make(tmp_path)))


def reason_of(path: Path) -> str | None:
    try:
        return why_not_decord(index_from_packets(path, with_headers=True))
    except Lost:
        return NO_TIMES


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> FrameIndex:
    """Of a file for decord."""
    path = encode(tmp_path_factory.mktemp("clips") / "a.mp4", options=CLOSED)
    made = index_from_packets(path, with_headers=True)
    assert why_not_decord(made) is None
    return made


def test_facts_that_no_small_file_has_are_refused_too(index: FrameIndex) -> None:
    facts = index.facts
    assert facts is not None
    first, *others = facts.packets
    huge = replace(first, size=2**30)
    corrupt = replace(others[3], is_corrupt=True)
    silent = without_reordering(facts.stream_header)
    other_coding = replace(others[3], changes_header=True)
    late = replace(first, is_key=False)
    all_keys = tuple(replace(one, is_key=True, picture=first.picture) for one in facts.packets)
    for changed, reason in (
        (replace(facts, video_streams=2), "2 video streams"),
        (replace(facts, packets=facts.packets * 200), "more than 9,900 packets"),
        (replace(facts, packets=(huge, *others)), "more than 256 MiB"),
        (replace(facts, packets=(first, corrupt, *others)), "damaged"),
        (replace(facts, packets=(first, *others[1:])), "not its frames"),
        (replace(facts, packets=(first, replace(others[0], pts=None))), "not its frames"),
        (replace(facts, is_fragmented=True), "fragmented"),
        (replace(facts, stream_header=b""), "unusual"),
        (replace(facts, packets=(*facts.packets[:4], other_coding, *facts.packets[5:])), "coding"),
        (replace(facts, packets=all_keys), "key frames are out of order"),
        (replace(facts, packets=(late, *others)), "begin with a key frame"),
        (
            replace(facts, container="matroska,webm", stream_header=silent),
            "how many frames are reordered",
        ),
    ):
        assert matches(reason, why_not_decord(replace(index, facts=changed))), reason


def test_an_index_without_packets_is_refused(index: FrameIndex) -> None:
    assert why_not_decord(replace(index, facts=None)) == NO_TIMES


def test_headers_that_were_not_read_are_no_proof(tmp_path: Path) -> None:
    assert why_not_decord(index_from_packets(plain(tmp_path / "a.mp4"))) is not None
