"""What both sides of grpo_step.py train on: a tiny model, clips, equal prompts, a reward.

    Size -> model directory, clips with a manifest -> ours: videos      TRL: images, no videos

A Qwen2.5-VL makes one temporal patch of two frames, and of one image (shown twice). So every second
frame as an image gives the tower as many patches and the prompt as many vision tokens as the video;
images have their own start and end tokens, and the video's prompt gets as many words more.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rollout.prompt import Prompts
from tests.benchmarks import grpo_reward
from tests.tiny_models import build_model, build_processor
from wire.labels import Label, LabelSet
from wire.types import Sample, Split

MODEL_TYPE = "qwen2_5_vl"
NEVER = "<|vision_pad|>"
"""Ends a turn in this model, and is among the tokens that both sides may not write: so every
response is as long as allowed."""
LEARNING_RATE = 1e-4
EPSILON_LOW, EPSILON_HIGH = 0.2, 0.28
REWARD_FILE = Path(grpo_reward.__file__)

_MERGE, _PATCH, _PAIR = 2, 14, 2
_FPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One comparison."""

    name: str
    frames: int
    side: int
    """Pixels; a multiple of 28."""
    response: int
    """Tokens of every response."""
    groups: int
    """Prompts per step."""
    steps: int
    """Measured steps, after one of warm-up."""
    group_size: int = 8
    trl_batch: int = 8
    """TRL's rollouts per forward and backward pass; the fastest of those tried."""
    our_rollouts: Literal["float32", "bfloat16"] = "float32"
    """Precision of our engine; TRL's vLLM computes in bfloat16 on a CPU, whatever it is told."""

    @property
    def rollouts(self) -> int:
        """Per step."""
        return self.groups * self.group_size

    @property
    def images(self) -> int:
        """Per prompt, on TRL's side."""
        return self.frames // _PAIR

    @property
    def vision_tokens(self) -> int:
        """Per prompt, on both sides."""
        return self.images * (self.side // _PATCH // _MERGE) ** 2

    @property
    def all_steps(self) -> int:
        """With the one of warm-up."""
        return self.steps + 1

    @property
    def num_clips(self) -> int:
        """Every step has new ones."""
        return self.groups * self.all_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Where a comparison's files are. Crosses to TRL's process."""

    size: Size
    folder: Path

    @property
    def model(self) -> Path:
        """In Hugging Face format."""
        return self.folder / "model"

    @property
    def manifest(self) -> Path:
        """Of the clips, with the side text of each."""
        return self.folder / "manifest.jsonl"

    def clips(self) -> list[Path]:
        """Those to train on, in the manifest's order."""
        rows = [json.loads(line) for line in self.manifest.read_text().splitlines()]
        return [self.folder / row["video"] for row in rows if row["split"] == "train"]


LABELS = LabelSet(
    labels=tuple(
        Label(name=name, definition=text)
        for name, text in (("relapse", "a same and an opposite"), ("varied", "none of these"))
    )
)


def side_text(size: Size, *, is_video: bool) -> str:
    """Text that both prompts show; the video's has two words more for every further image."""
    return "a" + " a" * (2 * (size.images - 1) if is_video else 0)


def prompt_text(size: Size) -> str:
    """What TRL's prompts say after their images."""
    text = side_text(size, is_video=False)
    sample = Sample(id="", video="", label="varied", split=Split.TRAIN, text=text)
    (message,) = Prompts(LABELS, use_side_text=True).trace(sample)
    return message.text


def make_material(folder: Path, size: Size) -> Material:
    """Write it all."""
    material = Material(size=size, folder=folder)
    (folder / "clips").mkdir(parents=True)
    _write_model(material.model, size)
    rows = []
    for index in range(size.num_clips + 1):
        video = f"clips/{index}.mp4"
        _write_clip(folder / video, size, index)
        split = "train" if index < size.num_clips else "test"  # a recipe needs a clip of each
        rows.append(
            {
                "id": str(index),
                "video": video,
                "label": LABELS.names[index % 2],
                "split": split,
                "text": side_text(size, is_video=True),
            }
        )
    material.manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return material


def _write_model(folder: Path, size: Size) -> None:
    processor = build_processor(MODEL_TYPE)
    area = {"shortest_edge": _PATCH**2 * 4, "longest_edge": size.side**2}
    processor.image_processor.size = processor.video_processor.size = area
    processor.tokenizer.eos_token = NEVER
    end = processor.tokenizer.convert_tokens_to_ids(NEVER)
    model = build_model(MODEL_TYPE, processor.tokenizer, seed=0)
    model.config.text_config.eos_token_id = model.generation_config.eos_token_id = end
    processor.save_pretrained(folder)
    model.save_pretrained(folder)


def _write_clip(path: Path, size: Size, seed: int) -> None:
    """Drifting gradients, others in every clip."""
    import av

    y, x = np.mgrid[: size.side, : size.side]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=_FPS)
        stream.width, stream.height, stream.pix_fmt = size.side, size.side, "yuv420p"
        for index in range(size.frames):
            planes = (x * 3 + 20 * index + 37 * seed, y * 3 - 10 * index, x + y * seed + 5 * index)
            picture = np.stack([plane % 256 for plane in planes], -1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def frames_as_images(video: Path, size: Size) -> npt.NDArray[np.uint8]:
    """Every second frame of a clip, as ours decodes it."""
    from video.config import VideoConfig
    from video.decode import decode

    frames: npt.NDArray[np.uint8] = decode(video, VideoConfig(max_frames=size.frames)).frames
    return frames[::_PAIR]
