"""The one call of the model's processor that rollout and learner both rely on.

    DecodedClip -> Hugging Face processor -> ProcessedClip (pixels, grid, timing, placeholder ids)

A prompt is assembled as ids(text before) + placeholder_ids + ids(text after), so that text never
goes through the multimodal processor again and both sides share the same tensors.
"""

import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from video.config import VideoConfig
from video.decode import DecodedClip
from wire.errors import ClipError, ConfigError
from wire.types import stable_hash

PLACEHOLDER = "<|vision_start|><|video_pad|><|vision_end|>"
"""The text that stands for a clip in a prompt."""

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProcessedClip:
    """What the model sees of one clip. Several callers share the pixels: never write into them.

    Example:
        ProcessedClip(pixel_values=<float32 [64, 1176]>, grid_thw=(4, 4, 4), seconds_per_grid=0.5,
                      placeholder_ids=(3, 7, 7, ..., 4), fingerprint="9f0c...", clip_key="ab12")
    """

    pixel_values: Pixels
    """[N, D]: one row per patch, N = t * h * w of the grid."""
    grid_thw: tuple[int, int, int]
    """Patches in time, height and width, before merging."""
    seconds_per_grid: float
    """Time between two temporal patches; exactly a float32, which is what vLLM holds it in."""
    placeholder_ids: tuple[int, ...]
    """Vision start, one video token per merged patch, vision end: ``PLACEHOLDER`` for this clip."""
    fingerprint: str
    """Hash of all the above."""
    clip_key: str
    """Names the clip in the cache: content + view + sampling + processor."""


def fingerprint_of(
    pixel_values: Pixels,
    grid_thw: tuple[int, ...],
    seconds_per_grid: float,
    placeholder_ids: tuple[int, ...],
) -> str:
    """Hash of everything that the model sees of a clip."""
    shape = list(pixel_values.shape)
    header = [shape, list(grid_thw), float(seconds_per_grid).hex(), list(placeholder_ids)]
    digest = hashlib.sha256(json.dumps(header).encode())
    digest.update(np.ascontiguousarray(pixel_values, dtype="<f4").data)
    return digest.hexdigest()


class ClipProcessor:
    """The processor of one model. Heavy: it imports transformers when it is made."""

    def __init__(self, model_dir: str | Path) -> None:
        """Raises ConfigError if the folder holds no usable Qwen2.5-VL processor."""
        import transformers

        self._model_dir = Path(model_dir)
        if not self._model_dir.is_dir():
            raise ConfigError(
                f"there is no model folder {model_dir}; give one with a model's files"
            )
        loader: Any = transformers.AutoProcessor
        try:
            self._processor = loader.from_pretrained(
                str(model_dir), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot load the processor in {model_dir}: {error}; "
                "the folder must hold the model's processor, video processor and tokenizer files"
            ) from error
        if not isinstance(self._processor, transformers.Qwen2_5_VLProcessor):
            raise ConfigError(
                f"{model_dir} has a {type(self._processor).__name__}; "
                "use a model with a Qwen2_5_VLProcessor"
            )
        # a fast tokenizer raises "Already borrowed" when two threads set its padding at once
        self._one_at_a_time = threading.Lock()
        ends = self._processor.tokenizer(PLACEHOLDER)["input_ids"]
        if len(ends) != 3:
            raise ConfigError(
                f"the tokenizer in {model_dir} makes {len(ends)} tokens of {PLACEHOLDER}, "
                "expected 3; use the tokenizer that came with the model"
            )
        self.processor_hash = stable_hash(
            transformers.__version__,
            self._processor.video_processor.to_dict(),
            ends,
            self._processor.video_token_id,
        )
        """Changes with whatever changes pixels, grid, timing or placeholder ids; a model saved
        again with the same processor keeps it, so that the stages of a run share one cache."""

    def process(self, clip: DecodedClip, config: VideoConfig, *, clip_key: str) -> ProcessedClip:
        """Process one clip. Raises ClipError if its frames do not suit the model (4000 x 1)."""
        try:
            with self._one_at_a_time:
                seen = self._processor(
                    text=[PLACEHOLDER],
                    videos=[clip.frames],
                    return_tensors="pt",
                    videos_kwargs=self._videos_kwargs(clip, config),
                )
        except ValueError as error:
            height, width = clip.frames.shape[1:3]
            raise ClipError(f"the model takes no frames of {width} x {height}: {error}") from error
        pixels: Pixels = seen["pixel_values_videos"].numpy()
        t, h, w = seen["video_grid_thw"][0].tolist()
        seconds = float(seen["second_per_grid_ts"][0])
        ids = tuple(seen["input_ids"][0].tolist())
        return ProcessedClip(
            pixel_values=pixels,
            grid_thw=(t, h, w),
            seconds_per_grid=seconds,
            placeholder_ids=ids,
            fingerprint=fingerprint_of(pixels, (t, h, w), seconds, ids),
            clip_key=clip_key,
        )

    def num_placeholders(self, frames: int, height: int, width: int, config: VideoConfig) -> int:
        """How many ``placeholder_ids`` a clip of so many sampled frames of this size gets; no pixel
        is touched. Raises ClipError if such frames do not suit the model."""
        least, most = self.pixel_bounds(config)
        videos = self._processor.video_processor
        size = {"shortest_edge": least, "longest_edge": most}
        try:
            patches = videos.get_num_of_video_patches(frames, height, width, {"size": size})
        except ValueError as error:
            raise ClipError(f"the model takes no frames of {width} x {height}: {error}") from error
        return int(patches) // int(videos.merge_size) ** 2 + 2

    def _videos_kwargs(self, clip: DecodedClip, config: VideoConfig) -> dict[str, Any]:
        count = len(clip.frames)
        least, most = self.pixel_bounds(config)
        return {
            "do_sample_frames": False,  # frames are sampled already
            "fps": clip.fps,
            # without metadata the processor assumes 24 fps, and time positions are wrong
            "video_metadata": [
                {
                    "total_num_frames": count,
                    "fps": clip.fps,
                    "duration": count / clip.fps,
                    "frames_indices": list(range(count)),
                }
            ],
            "input_data_format": "channels_last",  # else guessed, wrongly for clips 3 pixels high
            "cap_pixels_per_frame": self._processor.video_processor.cap_pixels_per_frame or False,
            # transformers' words for the least and most pixels of a frame: not edges, areas
            "size": {"shortest_edge": least, "longest_edge": most},
        }

    def pixel_bounds(self, config: VideoConfig) -> tuple[int, int]:
        """Least and most pixels per frame: the recipe's, else the processor's own.

        Raises ConfigError if one of the recipe's contradicts one of the processor's.
        """
        own = self._processor.video_processor.size
        least = config.min_pixels or own["shortest_edge"]
        most = config.max_pixels or own["longest_edge"]
        if least > most:
            raise ConfigError(
                f"min_pixels={config.min_pixels}, max_pixels={config.max_pixels}: with the "
                f"processor's own {own['shortest_edge']} to {own['longest_edge']} this makes "
                f"{least} to {most}; set both in the recipe"
            )
        return least, most
