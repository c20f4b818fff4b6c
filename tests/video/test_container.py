import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from video.config import VideoConfig
from video.decode import decode, probe
from wire.errors import ClipError

CONFIG = VideoConfig(max_frames=8)
MakeClip = Callable[..., Path]


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_random(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def damage_text(path: Path) -> None:
    path.write_text("this is not a video\n" * 50)


def damage_playlist(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXTINF:4,\n/etc/passwd\n")


def damage_missing(path: Path) -> None:
    path.unlink()


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_empty, "empty"),
        (damage_cut, "Invalid data"),
        (damage_random, "Invalid data"),
        (damage_text, "Invalid data"),
        (damage_playlist, "a playlist"),
        (damage_missing, "no such file"),
        (damage_folder, "not a file"),
    ],
)
def test_a_damaged_file_is_a_clip_error_that_names_it(
    make_clip: MakeClip, damage: Callable[[Path], None], words: str
) -> None:
    path = make_clip("broken.mp4")
    damage(path)
    for call in (lambda: decode(path, CONFIG), lambda: probe(path)):
        with pytest.raises(ClipError, match=words) as caught:
            call()
        assert "broken.mp4" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_file_without_video_is_a_clip_error(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ClipError, match="no video stream"):
        decode(path, CONFIG)
