"""Builders: hand-made clips, a tiny Qwen2.5-VL processor, and a fake one."""

import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from video.config import VideoConfig
from video.decode import DecodedClip
from video.processor import ClipProcessor, ProcessedClip, fingerprint_of

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{m.role}}\n"
    "{% if m.content is string %}{{m.content}}{% else %}{% for c in m.content %}"
    "{% if c.type=='video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{c.text}}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_clip(
    path: Path,
    frames: int = 12,
    rate: int | Fraction = 8,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> Path:
    """A clip whose frame i is grey of brightness 10 * i with a white corner at the top left."""
    width, height = size
    with av.open(str(path), "w") as container:
        quiet = {"libx265": {"x265-params": "log-level=none"}}.get(codec, {})
        stream: Any = container.add_stream(codec, rate=rate, options={**quiet, **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            picture = np.full((height, width, 3), 10 * index % 250, np.uint8)
            picture[: height // 4, : width // 4] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def build_processor(folder: Path) -> Path:
    """Save a tiny Qwen2.5-VL processor, with the model's own file names."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["What action is shown in the video? user assistant"] * 10, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
    )
    tokenizer.chat_template = TEMPLATE
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
        video_processor=Qwen2VLVideoProcessor(min_pixels=28 * 28, max_pixels=112 * 112),
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """``make_clip("a.mp4", frames=5)`` writes a clip into the test's own folder."""

    def make(name: str = "clip.mp4", **settings: Any) -> Path:
        return write_clip(tmp_path / name, **settings)

    return make


@pytest.fixture(scope="session")
def processor_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_processor(tmp_path_factory.mktemp("processor"))


@pytest.fixture(scope="session")
def processor(processor_dir: Path) -> ClipProcessor:
    return ClipProcessor(processor_dir)


class FakeProcessor:
    """A processor without transformers, quick to start; notes each call as a line in ``log``."""

    def __init__(self, log: Path, processor_hash: str = "fake", pause_s: float = 0.0) -> None:
        self.processor_hash = processor_hash
        self._log = log
        self._pause_s = pause_s

    def pixel_bounds(self, config: VideoConfig) -> tuple[int, int]:
        return 1, 10**6

    def process(self, clip: DecodedClip, config: VideoConfig, *, clip_key: str) -> ProcessedClip:
        with self._log.open("a") as file:
            file.write(f"{clip_key}\n")
        time.sleep(self._pause_s)
        count = len(clip.frames) // 2
        pixels = clip.frames.reshape(count, -1).astype(np.float32)
        seconds, ids = float(np.float32(2 / clip.fps)), (3, *[7] * count, 4)
        return ProcessedClip(
            pixel_values=pixels,
            grid_thw=(count, 1, 1),
            seconds_per_grid=seconds,
            placeholder_ids=ids,
            fingerprint=fingerprint_of(pixels, (count, 1, 1), seconds, ids),
            clip_key=clip_key,
        )

    @property
    def calls(self) -> int:
        """How often any process that shares the log has processed a clip."""
        return len(self._log.read_text().splitlines()) if self._log.exists() else 0


@pytest.fixture
def fake(tmp_path: Path) -> FakeProcessor:
    return FakeProcessor(tmp_path / "log")
