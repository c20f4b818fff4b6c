"""decord reads the files that the check lets through, and is held against their index."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from video.config import VideoConfig
from video.decode import decode, probe
from video.decord_reader import DecordFailed, read_with_decord
from video.exactness.by_packets import why_not_decord
from video.frame_index import FrameIndex, index_from_packets
from wire.errors import ClipError

MakeClip = Callable[..., Path]
EIGHT = VideoConfig(max_frames=8)
SIZE = (72, 48)


def indexed(path: Path) -> FrameIndex:
    return index_from_packets(path, with_headers=True)


def test_frames_come_in_the_order_and_number_asked_for(make_clip: MakeClip) -> None:
    path = make_clip(frames=20, size=SIZE)
    frames = read_with_decord(path, indexed(path), [0, 3, 3, 19, 19, 19])
    brightness = frames[:, -1, -1, 0].astype(int)
    assert frames.shape == (6, 48, 72, 3)
    assert brightness == pytest.approx([0, 30, 30, 190, 190, 190], abs=4)


def test_a_file_of_other_frames_than_the_index_is_refused(make_clip: MakeClip) -> None:
    path, other = make_clip(frames=20, size=SIZE), make_clip("b.mp4", frames=21, size=SIZE)
    with pytest.raises(DecordFailed, match="sees other frames"):
        read_with_decord(other, indexed(path), [0, 5])
    keys = replace(indexed(path), keys=[])
    with pytest.raises(DecordFailed, match="sees other frames"):
        read_with_decord(path, keys, [0, 5])


def test_an_error_of_decord_says_what_and_not_where_in_its_source(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    index = indexed(make_clip(size=SIZE))
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(DecordFailed) as error:
        read_with_decord(text, index, [0])
    assert str(error.value).startswith("decord failed: ")
    assert ".cc:" not in str(error.value)


def test_pyav_reads_what_decord_refuses(make_clip: MakeClip) -> None:
    """decord mistakes a row of 96 pixels, padded, for one of four colours."""
    path = make_clip(size=(96, 64))
    clip, expected = decode(path, EIGHT), decode(path, EIGHT, decoder="pyav")
    assert np.array_equal(clip.frames, expected.frames)
    if why_not_decord(indexed(path)) is None and clip.not_by_decord is not None:
        assert clip.not_by_decord.startswith("decord failed: ")


def test_the_decoder_is_chosen_and_named(make_clip: MakeClip) -> None:
    path = make_clip(size=SIZE)
    begun = list[str]()

    def begins() -> None:
        begun.append("decord")

    assert decode(path, EIGHT, on_decord=begins).not_by_decord is None
    assert decode(path, EIGHT, decoder="decord", on_decord=begins).not_by_decord is None
    by_pyav = decode(path, EIGHT, decoder="pyav", on_decord=begins)
    assert by_pyav.not_by_decord == 'video.decoder is "pyav"'
    assert begun == ["decord", "decord"]


@pytest.mark.parametrize("name", ["odd.webm", "times.avi"])
def test_where_decord_alone_may_decode_its_limits_are_errors_from_the_start_on(
    make_clip: MakeClip, name: str
) -> None:
    settings = {
        "odd.webm": {"size": (72, 47), "codec": "libvpx-vp9"},
        "times.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    }
    path = make_clip(name, **settings[name])
    assert decode(path, EIGHT).not_by_decord is not None
    probe(path)
    with pytest.raises(ClipError, match=f'{name}: video.decoder is "decord".*set it to "auto"'):
        probe(path, decoder="decord")
    with pytest.raises(ClipError, match=f'{name}: video.decoder is "decord".*set it to "auto"'):
        decode(path, EIGHT, decoder="decord")
