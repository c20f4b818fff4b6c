"""Bytes of pixels: they come back to the bit, or there are none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_models import build_processor
from video import clip_file
from video.config import VideoConfig
from video.decode import decode
from video.pixel_codes import PixelScale, encode
from video.pixel_codes import decode as pixels_of
from video.processor import ClipProcessor

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
SCALE = PixelScale.of(
    [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711], 1 / 255
)


def all_levels() -> np.ndarray:
    return np.repeat(np.arange(256, dtype=np.uint8)[:, None], 6, axis=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_each_familys_processor_makes_of_bytes_comes_back_to_the_bit(
    family: str, make_clip: Callable[..., Path], tmp_path: Path
):
    build_processor(family).save_pretrained(tmp_path / "model")
    processor, config = ClipProcessor(tmp_path / "model"), VideoConfig(max_frames=6)
    clip = processor.process(decode(make_clip(size=(150, 90)), config), config, clip_key="ab12")
    assert clip.pixel_scale is not None
    codes = encode(clip.pixel_values, clip.pixel_scale)
    assert codes is not None
    again = pixels_of(codes, clip.pixel_scale)
    assert again.tobytes() == clip.pixel_values.tobytes()
    content = np.frombuffer(b"".join(clip_file.parts_of(clip)), np.uint8)
    assert len(content) < 0.26 * clip.pixel_values.nbytes + 2000
    stored = clip_file.parse("ab12", content)
    assert stored.pixel_values.tobytes() == clip.pixel_values.tobytes()
    assert (stored.fingerprint, stored.pixel_scale) == (clip.fingerprint, clip.pixel_scale)


def test_every_level_of_every_channel_comes_back():
    codes = all_levels()
    assert np.array_equal(encode(pixels_of(codes, SCALE), SCALE), codes)


@given(st.integers(0, 255), st.integers(0, 5), st.integers(1, 2**31 - 1))
def test_one_changed_bit_and_there_are_no_codes(row: int, column: int, flip: int):
    pixels = pixels_of(all_levels(), SCALE)
    pixels.view(np.uint32)[row, column] ^= flip
    codes = encode(pixels, SCALE)
    assert codes is None or pixels_of(codes, SCALE).tobytes() == pixels.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9, -0.3])
def test_values_that_no_byte_gives_have_no_codes(value: float):
    pixels = pixels_of(all_levels(), SCALE)
    pixels[3, 3] = value
    assert encode(pixels, SCALE) is None


def test_another_scale_or_width_has_no_codes_and_is_kept_as_it_is():
    pixels = pixels_of(all_levels(), SCALE)
    other = PixelScale.of([0.5] * 3, [0.5] * 3, 1 / 255)
    assert encode(pixels, other) is None
    assert encode(np.ascontiguousarray(pixels[:, :5]), SCALE) is None
