from collections.abc import Callable
from pathlib import Path

import pytest

from video.config import VideoConfig
from video.decode import decode
from video.frame_index import FrameIndex, StreamFacts, index_by_decoding, index_from_packets
from wire.errors import ClipError

CONFIG = VideoConfig(max_frames=8)
MakeClip = Callable[..., Path]


def test_packets_tell_what_decoding_finds(make_clip: MakeClip) -> None:
    path = make_clip(frames=40, options={"g": "10", "bf": "2"})
    index, decoded = index_from_packets(path), index_by_decoding(path)
    assert index.pts == decoded.pts
    assert len(index.keys) >= 4
    assert decoded.facts is None
    facts = facts_of(index)
    assert (facts.container, facts.codec) == ("mov,mp4,m4a,3gp,3g2,mj2", "h264")
    assert facts.pixel_format == "yuv420p"
    assert sorted(packet.pts for packet in facts.packets if packet.pts is not None) == index.pts
    assert [packet.pts for packet in facts.packets] != index.pts  # in the order of the file
    assert sum(packet.is_key for packet in facts.packets) == len(index.keys)


def facts_of(index: FrameIndex) -> StreamFacts:
    assert index.facts is not None
    return index.facts


def test_a_file_whose_end_is_cut_off_is_an_error_not_a_shorter_clip(make_clip: MakeClip) -> None:
    path = make_clip("end.mkv", frames=200, options={"g": "10"})  # mkv opens without its end
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    clip = decode(path, CONFIG)  # mkv does not say how many frames there were
    assert clip.total_frames < 200

    path = make_clip("end.mp4", frames=200, options={"g": "10", "movflags": "faststart"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ClipError):
        decode(path, CONFIG)
