"""Headers of packets, from real encoders and bit by bit."""

from pathlib import Path

import av
import pytest

from tests.video.exactness.planted import (
    encode,
    hidden_vp8,
    late_pyramid,
    without_reordering,
)
from video.exactness.bits import Bits, NotPlain
from video.exactness.h264 import h264_parameters, h264_reader
from video.exactness.picture_header import NOT_PLAIN, PictureHeader
from video.exactness.readers import header_reader

PLAIN = PictureHeader(shows_one=True, is_clean_start=False, keeps_format=True)
KEY = PictureHeader(shows_one=True, is_clean_start=True, keeps_format=True)
CODECS = {
    "h264": ("libx264", "mp4", {"x264-params": "keyint=12:bframes=3"}),
    "vp8": ("libvpx", "webm", {"g": "20", "deadline": "realtime"}),
    "vp9": ("libvpx-vp9", "webm", {"g": "20", "lag-in-frames": "25", "auto-alt-ref": "1"}),
    "av1": ("libsvtav1", "mp4", {"svtav1-params": "lp=1:keyint=16", "preset": "12"}),
}


def packets_of(path: Path) -> tuple[bytes, list[tuple[bytes, bool]]]:
    """The stream's header; packets, and whether the container calls them key frames."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [(bytes(p), p.is_keyframe) for p in container.demux(stream) if p.size]
        return bytes(stream.codec_context.extradata or b""), packets


def clip(folder: Path, codec: str, size: tuple[int, int] = (96, 64)) -> Path:
    encoder, ending, options = CODECS[codec]
    return encode(folder / f"{codec}-{size[0]}.{ending}", encoder, options, size=size)


@pytest.mark.parametrize("codec", CODECS)
def test_every_packet_of_a_plain_stream_shows_one_picture(codec: str, tmp_path: Path) -> None:
    header, packets = packets_of(clip(tmp_path, codec))
    read = header_reader(codec, header)
    assert read is not None
    assert [read(memoryview(data)) for data, _ in packets] == [
        KEY if is_key else PLAIN for _, is_key in packets
    ]


@pytest.mark.parametrize("codec", CODECS)
def test_another_size_is_another_format(codec: str, tmp_path: Path) -> None:
    header, packets = packets_of(clip(tmp_path, codec))
    other_header, others = packets_of(clip(tmp_path, codec, (128, 96)))
    read = header_reader(codec, header)
    assert read is not None
    assert read(packets[0][0]).keeps_format
    first = others[0][0]
    if codec == "h264":  # x264 leaves the parameters to the stream's header
        size = int.from_bytes(other_header[6:8], "big")
        first = bytes(2) + other_header[6 : 8 + size] + first
    assert not read(first).keeps_format


@pytest.mark.parametrize("codec", CODECS)
def test_half_a_packet_or_none_is_not_plain(codec: str, tmp_path: Path) -> None:
    header, packets = packets_of(clip(tmp_path, codec))
    read = header_reader(codec, header)
    assert read is not None
    for data in (b"\0" * 40, b"\xff" * 40, packets[0][0][:3]):
        assert not read(data).shows_one or not read(data).keeps_format


def test_other_codecs_have_no_reader() -> None:
    assert header_reader("hevc", b"") is None


def test_a_packet_shows_nothing_without_a_slice_and_too_much_with_two() -> None:
    read = h264_reader(bytes([1, 100, 0, 10, 255, 225, 0, 0]))
    slice_, message = b"\0\0\0\3\x41\x80\0", b"\0\0\0\5\x06\x05\1\0\x80"
    assert read(slice_) == PLAIN
    assert read(message + slice_) == PLAIN
    assert not read(message).shows_one
    assert not read(slice_ + slice_).shows_one
    assert read(b"\0\0\0\3\x42\x80\0") == NOT_PLAIN  # a partition of a slice
    assert read(slice_[:-1]) == NOT_PLAIN


def test_a_message_that_turns_the_picture_is_not_plain() -> None:
    read = h264_reader(bytes([1, 100, 0, 10, 255, 225, 0, 0]))
    slice_ = b"\0\0\0\3\x41\x80\0"
    turned = b"\0\0\0\x09\x06\x05\1\0\x2f\2\0\0\x80"
    assert read(turned + slice_) == NOT_PLAIN


def test_parameters_tell_fields_and_reordering(tmp_path: Path) -> None:
    params = {"progressive": "bframes=3", "fields": "tff=1:bframes=0"}
    seen = {}
    for name, text in params.items():
        path = encode(tmp_path / f"{name}.mp4", options={"x264-params": text}, count=5)
        seen[name] = h264_parameters(packets_of(path)[0])
    progressive, fields = seen["progressive"], seen["fields"]
    assert progressive is not None
    assert fields is not None
    assert progressive.is_progressive
    assert not fields.is_progressive
    assert progressive.reordered in (1, 2, 3)
    assert fields.reordered == 0


def test_parameters_may_leave_the_reordering_open(tmp_path: Path) -> None:
    header, _ = packets_of(late_pyramid(tmp_path / "a.mp4"))
    stated, left_open = h264_parameters(header), h264_parameters(without_reordering(header))
    assert stated is not None
    assert left_open is not None
    assert stated.reordered == 2
    assert left_open.reordered is None
    assert left_open.is_progressive


def test_damaged_parameters_are_none(tmp_path: Path) -> None:
    header, _ = packets_of(encode(tmp_path / "a.mp4", count=5))
    assert h264_parameters(b"") is None
    assert h264_parameters(header[:10]) is None
    assert h264_parameters(header[:5] + b"\xe2" + header[6:]) is None  # two of them


def test_a_hidden_vp8_frame_is_seen(tmp_path: Path) -> None:
    _, packets = packets_of(clip(tmp_path, "vp8"))
    read = header_reader("vp8", b"")
    assert read is not None
    shown = [
        read(hidden_vp8(data) if place == 7 else data).shows_one
        for place, (data, _) in enumerate(packets)
    ]
    assert [place for place, is_shown in enumerate(shown) if not is_shown] == [7]


def test_codes_of_h264_are_read() -> None:
    bits = Bits(bytes([0b10100110, 0b01000010, 0b10000000]))
    assert [bits.golomb() for _ in range(4)] == [0, 1, 2, 3]
    assert bits.signed_golomb() == -2
    with pytest.raises(NotPlain):
        bits.golomb()
    with pytest.raises(NotPlain):
        Bits(b"\1").expect(8, 2)
