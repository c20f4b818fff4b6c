from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from video.config import VideoConfig
from video.decode import DecodedClip
from video.processor import PLACEHOLDER, ClipProcessor, fingerprint_of
from wire.errors import ClipError, ConfigError

MakeClip = Callable[..., Path]
CONFIG = VideoConfig(max_frames=8)


def make_decoded(
    frames: int = 8, height: int = 56, width: int = 84, fps: float = 4.0
) -> DecodedClip:
    pixels = np.random.default_rng(0).integers(0, 255, (frames, height, width, 3), np.uint8)
    return DecodedClip(
        frames=pixels,
        timestamps_s=tuple(i / fps for i in range(frames)),
        fps=fps,
        total_frames=frames,
        native_fps=fps,
    )


def test_assembled_prompt_and_pixels_equal_one_call_on_the_whole_chat(
    processor: ClipProcessor, processor_dir: Path
) -> None:
    from transformers import AutoProcessor

    loader: Any = AutoProcessor
    direct = loader.from_pretrained(processor_dir)
    content = [{"type": "video"}, {"type": "text", "text": "What action is shown?"}]
    chat = direct.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    decoded = make_decoded()
    metadata = {
        "total_num_frames": 8,
        "fps": 4.0,
        "duration": 2.0,
        "frames_indices": list(range(8)),
    }
    whole = direct(
        text=[chat],
        videos=[decoded.frames],
        return_tensors="pt",
        videos_kwargs={"do_sample_frames": False, "fps": 4.0, "video_metadata": [metadata]},
    )
    clip = processor.process(decoded, CONFIG, clip_key="key")
    before, after = chat.split(PLACEHOLDER)
    assembled = [
        *direct.tokenizer(before)["input_ids"],
        *clip.placeholder_ids,
        *direct.tokenizer(after)["input_ids"],
    ]
    assert assembled == whole["input_ids"][0].tolist()
    assert np.array_equal(clip.pixel_values, whole["pixel_values_videos"].numpy())
    assert clip.grid_thw == tuple(whole["video_grid_thw"][0].tolist())
    assert clip.seconds_per_grid == float(whole["second_per_grid_ts"][0]) == 0.5
    assert clip.clip_key == "key"


def test_grid_ids_and_pixels_fit_together(processor: ClipProcessor) -> None:
    clip = processor.process(make_decoded(height=56, width=84), CONFIG, clip_key="key")
    assert clip.grid_thw == (4, 4, 6)
    assert clip.pixel_values.shape == (4 * 4 * 6, 3 * 2 * 14 * 14)
    assert clip.pixel_values.dtype == np.float32
    assert len(clip.placeholder_ids) == 4 * 2 * 3 + 2


def test_seconds_per_grid_is_a_float32(processor: ClipProcessor) -> None:
    clip = processor.process(make_decoded(fps=3.0), CONFIG, clip_key="key")
    assert clip.seconds_per_grid == float(np.float32(2 / 3))


def test_max_pixels_of_the_recipe_wins(processor: ClipProcessor) -> None:
    config = VideoConfig(max_frames=8, max_pixels=28 * 28)
    assert processor.process(make_decoded(), config, clip_key="key").grid_thw == (4, 2, 2)


def test_min_pixels_of_the_recipe_wins(processor: ClipProcessor) -> None:
    config = VideoConfig(max_frames=8, min_pixels=110 * 110)
    t, h, w = processor.process(make_decoded(), config, clip_key="key").grid_thw
    assert (t, h * 14 * w * 14 >= 110 * 110) == (4, True)


def test_a_bound_that_contradicts_the_processors_own_is_a_config_error(
    processor: ClipProcessor,
) -> None:
    with pytest.raises(ConfigError, match="set both"):
        processor.pixel_bounds(VideoConfig(max_pixels=100))


def test_frames_that_the_model_cannot_take_are_a_clip_error(processor: ClipProcessor) -> None:
    with pytest.raises(ClipError, match="300 x 1"):
        processor.process(make_decoded(height=1, width=300), CONFIG, clip_key="key")


def test_a_clip_three_pixels_high_is_not_mistaken_for_channels(processor: ClipProcessor) -> None:
    clip = processor.process(make_decoded(height=3, width=60), CONFIG, clip_key="key")
    assert clip.grid_thw[1] < clip.grid_thw[2]


def test_processing_twice_gives_the_same_fingerprint(processor: ClipProcessor) -> None:
    first = processor.process(make_decoded(), CONFIG, clip_key="key")
    second = processor.process(make_decoded(), CONFIG, clip_key="other")
    assert first.fingerprint == second.fingerprint


def test_threads_may_share_a_processor(processor: ClipProcessor) -> None:
    clips = [make_decoded(frames=2 + 2 * (i % 4)) for i in range(16)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda c: processor.process(c, CONFIG, clip_key="key"), clips))
    alone = [processor.process(clip, CONFIG, clip_key="key") for clip in clips]
    assert [clip.fingerprint for clip in together] == [clip.fingerprint for clip in alone]


def test_the_fingerprint_sees_every_part(processor: ClipProcessor) -> None:
    clip = processor.process(make_decoded(), CONFIG, clip_key="key")
    pixels = clip.pixel_values.copy()
    pixels[0, 0] = np.nextafter(pixels[0, 0], np.float32(9))
    changed = [
        replace(clip, pixel_values=pixels),
        replace(clip, pixel_values=clip.pixel_values.reshape(-1, 588)),
        replace(clip, grid_thw=(4, 6, 4)),
        replace(clip, seconds_per_grid=0.25),
        replace(clip, placeholder_ids=clip.placeholder_ids[:-1]),
    ]
    prints = {
        fingerprint_of(c.pixel_values, c.grid_thw, c.seconds_per_grid, c.placeholder_ids)
        for c in changed
    }
    assert len(prints | {clip.fingerprint}) == len(changed) + 1


def test_processor_hash_follows_settings_not_files(
    processor: ClipProcessor, processor_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoProcessor

    loader: Any = AutoProcessor
    again = loader.from_pretrained(processor_dir)
    again.save_pretrained(tmp_path / "same")
    assert ClipProcessor(tmp_path / "same").processor_hash == processor.processor_hash
    again.video_processor.image_mean = [0.5, 0.5, 0.5]
    again.save_pretrained(tmp_path / "other")
    assert ClipProcessor(tmp_path / "other").processor_hash != processor.processor_hash


def test_a_folder_without_a_model_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        ClipProcessor(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="cannot load the processor"):
        ClipProcessor(tmp_path)


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(8, 56, 84), (2, 30, 30), (4, 500, 300), (6, 28, 900)]
)
@pytest.mark.parametrize("max_pixels", [None, 20_000])
def test_placeholders_are_counted_without_pixels_as_with_them(
    processor: ClipProcessor, frames: int, height: int, width: int, max_pixels: int | None
) -> None:
    config = VideoConfig(max_pixels=max_pixels)
    clip = processor.process(make_decoded(frames, height, width), config, clip_key="k")
    counted = processor.num_placeholders(frames, height, width, config)
    assert counted == len(clip.placeholder_ids)


def test_frames_that_suit_no_model_have_no_placeholders(processor: ClipProcessor) -> None:
    with pytest.raises(ClipError, match="no frames of 4000 x 1"):
        processor.num_placeholders(2, 1, 4000, CONFIG)
