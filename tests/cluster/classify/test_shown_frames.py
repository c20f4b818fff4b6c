"""Frames for people are those that the model saw: made from its input, by a real processor."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.classify.shown_frames import png_frames, shown_frames
from tests.cluster.report.builders import write_clip
from tests.tiny_models import write_tiny_model
from video.address import View
from video.cache import ClipStore
from video.config import VideoConfig
from video.pool import DecodePool
from video.processor import ClipProcessor
from wire.errors import ClipError

CONFIG = VideoConfig(max_frames=8)


@pytest.fixture
def clip_path(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "a.mp4", num_frames=8)


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> ClipProcessor:
    """That of a real family of models."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return ClipProcessor(write_tiny_model(folder, "qwen2_5_vl", seed=0))


def test_frames_are_put_together_again_to_the_byte(
    clip_path: Path, processor: ClipProcessor, tmp_path: Path
) -> None:
    store = ClipStore(tmp_path / "cache", processor, CONFIG)
    decoded = DecodePool(CONFIG).decode(clip_path)
    clip = store.get(clip_path)
    shown = shown_frames(clip)
    assert shown.shape[0] == len(clip.frame_indices) == len(decoded.frames)
    if shown.shape == decoded.frames.shape:
        np.testing.assert_array_equal(shown, decoded.frames)
    else:  # scaled by the processor
        for seen, before in zip(shown, decoded.frames, strict=True):
            size = (seen.shape[1], seen.shape[0])
            scaled = np.asarray(Image.fromarray(before).resize(size, Image.Resampling.BICUBIC))
            assert np.abs(seen.astype(int) - scaled.astype(int)).mean() < 2
    reversed_clip = store.get(f"{clip_path}#view={View.REVERSED}")
    np.testing.assert_array_equal(shown_frames(reversed_clip), shown[::-1])


def test_frames_are_png_by_their_number_in_the_video(
    clip_path: Path, processor: ClipProcessor, tmp_path: Path
) -> None:
    clip = ClipStore(tmp_path / "cache", processor, CONFIG).get(clip_path)
    last, first = clip.frame_indices[-1], clip.frame_indices[0]
    images = [np.asarray(Image.open(io.BytesIO(one))) for one in png_frames(clip, [last, first])]
    shown = shown_frames(clip)
    np.testing.assert_array_equal(images[0], shown[-1])
    np.testing.assert_array_equal(images[1], shown[0])
    with pytest.raises(ClipError, match="the model was not shown frame 999"):
        png_frames(clip, [999])
