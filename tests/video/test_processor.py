import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_models import MODEL_TYPES, build_processor
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
        frame_indices=tuple(range(frames)),
        timestamps_s=tuple(i / fps for i in range(frames)),
        fps=fps,
        total_frames=frames,
        native_fps=fps,
        seconds=frames / fps,
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


def test_total_pixels_makes_frames_smaller_the_more_there_are(processor: ClipProcessor) -> None:
    config = VideoConfig(max_frames=16, total_pixels=16 * 28 * 28)
    assert processor.pixel_bounds(config) == (28 * 28, 2 * 28 * 28)
    assert processor.pixel_bounds(config, 4) == (28 * 28, 8 * 28 * 28)
    assert processor.pixel_bounds(config, 2) == (28 * 28, 112 * 112)  # never above the processor's
    for frames in (2, 4, 8, 16):
        t, h, w = processor.process(make_decoded(frames), config, clip_key="key").grid_thw
        assert t * h * w // 4 <= 16  # tokens of 28 x 28 pixels
    with pytest.raises(ConfigError, match="total_pixels=12543"):
        processor.pixel_bounds(VideoConfig(max_frames=32, total_pixels=16 * 28 * 28 - 1))


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


# --- the other families


@pytest.fixture(scope="module")
def processor_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A processor of each family, by model type."""
    root = tmp_path_factory.mktemp("processors")
    for model_type in MODEL_TYPES:
        build_processor(model_type).save_pretrained(root / model_type)
    return {model_type: root / model_type for model_type in MODEL_TYPES}


def decoded_at(times: Sequence[float]) -> DecodedClip:
    """A clip with frames at these times."""
    return replace(make_decoded(frames=len(times)), timestamps_s=tuple(times))


def text_of(processor: ClipProcessor, ids: Sequence[int]) -> str:
    return str(processor._processor.tokenizer.decode(list(ids)))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family_makes_the_ids_and_pixels_of_its_own_processor(
    processor_dirs: dict[str, Path], model_type: str
) -> None:
    from transformers import AutoProcessor

    loader: Any = AutoProcessor
    direct = loader.from_pretrained(processor_dirs[model_type])
    decoded = make_decoded()  # at an even rate, where frame numbers and a rate say all of time
    metadata = {"total_num_frames": 8, "fps": 4.0, "frames_indices": list(range(8))}
    whole = direct(
        text=[PLACEHOLDER],
        videos=[decoded.frames],
        return_tensors="pt",
        videos_kwargs={"do_sample_frames": False, "fps": 4.0, "video_metadata": [metadata]},
    )
    clip = ClipProcessor(processor_dirs[model_type]).process(decoded, CONFIG, clip_key="key")
    assert list(clip.placeholder_ids) == whole["input_ids"][0].tolist()
    assert np.array_equal(clip.pixel_values, whole["pixel_values_videos"].numpy())
    assert clip.grid_thw == tuple(whole["video_grid_thw"][0].tolist())
    video_token = direct.video_token_id
    assert clip.placeholder_ids.count(video_token) * 4 == len(clip.pixel_values)


def test_qwen3_reads_the_exact_times_of_unevenly_spaced_frames(
    processor_dirs: dict[str, Path],
) -> None:
    processor = ClipProcessor(processor_dirs["qwen3_vl"])
    clip = processor.process(decoded_at([0.0, 0.2, 1.0, 7.6]), CONFIG, clip_key="key")
    patches = clip.placeholder_ids.count(processor._processor.video_token_id) // 2
    block = "<|vision_start|>" + "<|video_pad|>" * patches + "<|vision_end|>"
    assert text_of(processor, clip.placeholder_ids) == (
        f"<|vision_start|><0.1 seconds>{block}<4.3 seconds>{block}<|vision_end|>"
    )


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen3_vl"])
def test_time_is_no_matter_of_positions_in(
    processor_dirs: dict[str, Path], model_type: str
) -> None:
    processor = ClipProcessor(processor_dirs[model_type])
    for fps in (1.0, 4.0):
        assert processor.process(make_decoded(fps=fps), CONFIG, clip_key="k").seconds_per_grid == 1


@pytest.mark.parametrize(
    ("model_type", "differs"), [("qwen2_vl", False), ("qwen2_5_vl", False), ("qwen3_vl", True)]
)
def test_the_fingerprint_sees_the_written_times_and_no_others(
    processor_dirs: dict[str, Path], model_type: str, differs: bool
) -> None:
    processor = ClipProcessor(processor_dirs[model_type])
    early, late = (
        processor.process(decoded_at([shift, shift + 0.25]), CONFIG, clip_key="key")
        for shift in (0.0, 60.0)
    )
    assert (early.fingerprint != late.fingerprint) is differs


def test_pixel_bounds_are_per_frame_in_qwen3_too(processor_dirs: dict[str, Path]) -> None:
    processor = ClipProcessor(processor_dirs["qwen3_vl"])
    assert processor.pixel_bounds(CONFIG) == (28 * 28, 2 * 112 * 112)
    assert processor.pixel_bounds(CONFIG, 2) == (4 * 28 * 28, 8 * 112 * 112)
    small = VideoConfig(max_frames=8, min_pixels=1, max_pixels=28 * 28)
    for frames in (2, 8):
        clip = processor.process(make_decoded(frames=frames), small, clip_key="key")
        assert clip.grid_thw == (frames // 2, 2, 2)


def test_two_families_with_one_video_processor_do_not_share_clips(
    processor_dirs: dict[str, Path],
) -> None:
    hashes = {ClipProcessor(folder).processor_hash for folder in processor_dirs.values()}
    assert len(hashes) == len(MODEL_TYPES)


def test_a_processor_of_another_family_than_its_model_is_refused(
    processor_dirs: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(processor_dirs["qwen2_vl"], tmp_path / "mixed")
    (tmp_path / "mixed/config.json").write_text('{"model_type": "qwen2_5_vl"}')
    with pytest.raises(ConfigError, match="Qwen2VLProcessor"):
        ClipProcessor(tmp_path / "mixed")


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


@pytest.mark.parametrize(("model_type", "slack"), [("qwen2_vl", 0), ("qwen3_vl", 3)])
def test_placeholders_of_the_other_families_are_counted_too(
    processor_dirs: dict[str, Path], model_type: str, slack: int
) -> None:
    """``slack``: digits of an hour's time that a short one does not have, per temporal patch."""
    processor = ClipProcessor(processor_dirs[model_type])
    for frames in (2, 6):
        clip = processor.process(make_decoded(frames), CONFIG, clip_key="k")
        spared = processor.num_placeholders(frames, 56, 84, CONFIG) - len(clip.placeholder_ids)
        assert 0 <= spared <= slack * frames // 2


def test_a_total_of_pixels_bounds_qwen3s_frames_too(processor_dirs: dict[str, Path]) -> None:
    processor = ClipProcessor(processor_dirs["qwen3_vl"])
    config = VideoConfig(max_frames=8, min_pixels=1, total_pixels=6 * 28 * 28)
    assert processor.process(make_decoded(), config, clip_key="k").grid_thw == (4, 2, 2)
    assert processor.process(make_decoded(frames=2), config, clip_key="k").grid_thw == (1, 4, 6)
