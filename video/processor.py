"""Wrapper of the model's processor: the one call that rollout and learner both rely on.

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

from video.address import Window
from video.config import VideoConfig, total_per_frame
from video.decode import DecodedClip
from video.families import FAMILIES, Family, family_of
from video.pixel_codes import PixelScale
from wire.errors import ClipError, ConfigError
from wire.types import stable_hash

PLACEHOLDER = "<|vision_start|><|video_pad|><|vision_end|>"
"""Text that stands for a clip in a prompt."""

_TICKS = 1_000_000  # per second: times are handed to processors that write them as whole numbers
_TIME = "<1234567890.0 seconds>"  # all that a written time is made of
_LONG_TIME = "<9999.9 seconds>"

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProcessedClip:
    """Model input of one clip. Several callers share the pixels: never write into them.

    Example:
        ProcessedClip(pixel_values=<float32 [64, 1176]>, grid_thw=(4, 4, 4), seconds_per_grid=0.5,
                      placeholder_ids=(3, 7, 7, ..., 4), fingerprint="9f0c...", clip_key="ab12")
    """

    pixel_values: Pixels
    """[N, D]: one row per patch, N = t * h * w of the grid."""
    grid_thw: tuple[int, int, int]
    """Patches in time, height and width, before merging."""
    seconds_per_grid: float
    """Time between two temporal patches, exactly a float32, which is what vLLM holds it in; 1 where
    the model's positions do not take time."""
    placeholder_ids: tuple[int, ...]
    """``PLACEHOLDER`` for this clip: vision start, one video token per merged patch, vision end; in
    Qwen3-VL in between, per temporal patch, its time as text, vision start, its tokens, vision end.
    """
    fingerprint: str
    """Hash of all fields above, which are what the model sees."""
    clip_key: str
    """Key of the clip in the cache: content + window + view + sampling + processor."""
    video_hash: str = ""
    """SHA-256 of the file's content; empty where it is not known."""
    window: Window | None = None
    """Part of the video that is shown; None: all of it."""
    frame_indices: tuple[int, ...] = ()
    """Number of each frame in the video, in the order that the model sees them."""
    pixel_scale: PixelScale | None = None
    """How the pixels were normalised, so that a cache may keep the bytes they came from; None: not
    known."""
    semantic_tokenizer: str = ""
    """Version of the semantic tokenizer whose narrative is shown in place of the video: there are
    no pixels then, and ``placeholder_ids`` are the narrative's; empty: the video is shown."""
    embeddings: Pixels | None = None
    """[V, H]: what takes the place of the tower's features, one row per video token of
    ``placeholder_ids``, in the space of the language model's input; None: the tower runs on the
    pixels, or there is no video token."""


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
        """Raises ConfigError if the folder holds no usable processor of a known family."""
        import transformers

        self._model_dir = Path(model_dir)
        if not self._model_dir.is_dir():
            raise ConfigError(
                f"there is no model folder {model_dir}; give one with a model's files"
            )
        self._processor = _load(self._model_dir)
        self.family = _family(self._processor, self._model_dir)
        """How this model takes a clip."""
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
            self.family.model_type,
            self._processor.video_processor.to_dict(),
            ends,
            self._processor.video_token_id,
            self._processor.tokenizer(_TIME)["input_ids"] if self.family.writes_times else [],
        )
        """Changes with whatever changes pixels, grid, timing or placeholder ids; a model saved
        again with the same processor keeps it, so that the stages of a run share one cache."""
        self._time_length = len(self._processor.tokenizer(_LONG_TIME)["input_ids"]) + 2
        videos = self._processor.video_processor
        self._pixel_scale = (
            PixelScale.of(videos.image_mean, videos.image_std, videos.rescale_factor)
            if videos.do_rescale and videos.do_normalize
            else None
        )

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
        seconds = float(seen["second_per_grid_ts"][0]) if "second_per_grid_ts" in seen else 1.0
        ids = tuple(seen["input_ids"][0].tolist())
        return ProcessedClip(
            pixel_values=pixels,
            grid_thw=(t, h, w),
            seconds_per_grid=seconds,
            placeholder_ids=ids,
            fingerprint=fingerprint_of(pixels, (t, h, w), seconds, ids),
            clip_key=clip_key,
            pixel_scale=self._pixel_scale,
        )

    def num_placeholders(self, frames: int, height: int, width: int, config: VideoConfig) -> int:
        """Number of ``placeholder_ids`` of a clip of ``frames`` sampled frames of this size, at
        most where times are written; no pixel is touched.

        Raises ClipError if such frames do not suit the model.
        """
        videos = self._processor.video_processor
        size = self._size(frames, config)
        try:
            patches = videos.get_num_of_video_patches(frames, height, width, {"size": size})
        except ValueError as error:
            raise ClipError(f"the model takes no frames of {width} x {height}: {error}") from error
        steps = frames // int(videos.temporal_patch_size) if self.family.writes_times else 0
        return int(patches) // int(videos.merge_size) ** 2 + 2 + steps * self._time_length

    def _videos_kwargs(self, clip: DecodedClip, config: VideoConfig) -> dict[str, Any]:
        return {
            "do_sample_frames": False,  # frames are sampled already
            "fps": clip.fps,
            "video_metadata": [self._metadata(clip)],
            "input_data_format": "channels_last",  # else guessed, wrongly for clips 3 pixels high
            "cap_pixels_per_frame": self._processor.video_processor.cap_pixels_per_frame or False,
            "size": self._size(len(clip.frames), config),
        }

    def _size(self, num_frames: int, config: VideoConfig) -> dict[str, int]:
        """Least and most pixels under transformers' names, which say edges but mean areas.

        Where the recipe says nothing it is the processor's own to the pixel, which a bound per
        frame may not divide.
        """
        own = self._processor.video_processor.size
        least, most = self.pixel_bounds(config, num_frames)
        if self.family.bounds_whole_clip:
            least = least * num_frames if config.min_pixels else own["shortest_edge"]
            bounded = config.max_pixels or config.total_pixels
            most = most * num_frames if bounded else own["longest_edge"]
        return {"shortest_edge": least, "longest_edge": most}

    def _metadata(self, clip: DecodedClip) -> dict[str, Any]:
        """Without it the processor assumes 24 frames a second, and what it says of time is wrong.

        A processor that writes times takes index / fps for that of a frame: whole ticks give the
        decoded frames' own times, however unevenly they follow each other.
        """
        count = len(clip.frames)
        fps, indices = clip.fps, list(range(count))
        if self.family.writes_times:
            fps, indices = float(_TICKS), [round(time * _TICKS) for time in clip.timestamps_s]
        return {
            "total_num_frames": count,
            "fps": fps,
            "duration": count / clip.fps,
            "frames_indices": indices,
        }

    def pixel_bounds(self, config: VideoConfig, num_frames: int | None = None) -> tuple[int, int]:
        """Least and most pixels per frame of a clip of ``num_frames`` (none: the longest one): the
        recipe's, else the processor's own. Its frames share ``total_pixels``.

        Raises ConfigError if one of the recipe's contradicts one of the processor's.
        """
        own = self._processor.video_processor.size
        frames = num_frames or config.max_frames
        shared = frames if self.family.bounds_whole_clip else 1
        own_least, own_most = own["shortest_edge"] // shared, own["longest_edge"] // shared
        least = config.min_pixels or max(own_least, 1)
        most = config.max_pixels or own_most
        if config.total_pixels is not None:
            most = min(most, total_per_frame(config.total_pixels, frames))
        if least > most:
            raise ConfigError(
                f"min_pixels={config.min_pixels}, max_pixels={config.max_pixels}, total_pixels="
                f"{config.total_pixels}: with the processor's own {own_least} to {own_most} this "
                f"makes {least} to {most} for each frame; set both in the recipe"
            )
        return least, most


def _load(model_dir: Path) -> Any:
    """Load a processor. Raises ConfigError if its files are not all there."""
    import transformers

    loader: Any = transformers.AutoProcessor
    try:
        return loader.from_pretrained(
            str(model_dir), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot load the processor in {model_dir}: {error}; "
            "the folder must hold the model's processor, video processor and tokenizer files"
        ) from error


def _family(processor: Any, model_dir: Path) -> Family:
    """The processor's family, which is the model's where its configuration is there too."""
    name = type(processor).__name__
    classes = {family.processor_class: family for family in FAMILIES.values()}
    if name not in classes:
        raise ConfigError(
            f"{model_dir} has a {name}; use a model with one of: {', '.join(classes)}"
        )
    if (model_dir / "config.json").exists() and family_of(model_dir) is not classes[name]:
        raise ConfigError(
            f"{model_dir} has a {name}, but its model is a {family_of(model_dir).model_type}; "
            "use the processor that came with the model"
        )
    return classes[name]
