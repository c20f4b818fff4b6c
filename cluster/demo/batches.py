"""Turns scenes and exchanges into the tensors that the demo's base model is trained on."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.demo.scenes import FPS, NUM_FRAMES, SIDE, Scene
from cluster.demo.texts import Exchange
from video.positions import PositionRule

IGNORE = -100
_PATCH = 14


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded sequences: ids and targets ``[rows, length]``, positions ``[3, rows, length]``."""

    ids: Tensor
    targets: Tensor
    positions: Tensor
    keep: Tensor


class Preparer:
    """Uses the model's own processor and the project's position rule, as production does."""

    def __init__(self, model: Any, processor: Any) -> None:
        config = model.config
        self.grid = (NUM_FRAMES // 2, SIDE // _PATCH, SIDE // _PATCH)
        self._tokenizer = processor.tokenizer
        self._rule = PositionRule(
            model_type=config.model_type,
            video_token_id=config.video_token_id,
            merge_size=config.vision_config.spatial_merge_size,
            tokens_per_second=config.vision_config.tokens_per_second,
        )
        self._seconds_per_grid = config.vision_config.temporal_patch_size / FPS
        self._video_token = config.video_token_id
        self._pad = self._tokenizer.pad_token_id
        mean = torch.tensor(processor.video_processor.image_mean)[:, None]
        std = torch.tensor(processor.video_processor.image_std)[:, None]
        self._scale, self._shift = 1 / (255 * std), mean / std

    def pixels(self, clips: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Patches of equal clips of the demo's size, ``[clips, patches, values]``.

        The same numbers as from the processor (a test compares them), some twenty times faster.
        """
        t, h, w = self.grid
        raw = torch.from_numpy(np.stack(clips))
        cut = raw.view(len(clips), t, 2, h // 2, 2, _PATCH, w // 2, 2, _PATCH, 3)
        patches = cut.permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8).reshape(len(clips), t * h * w, 3, -1)
        return (patches.float() * self._scale - self._shift).flatten(2)

    def batch(self, exchanges: Sequence[Exchange]) -> Batch:
        """Chat sequences with their answers as the only targets."""
        rows = [self._row(exchange) for exchange in exchanges]
        length = max(len(ids) for ids, _, _ in rows)
        out = Batch(
            ids=torch.full((len(rows), length), self._pad),
            targets=torch.full((len(rows), length), IGNORE),
            positions=torch.zeros(3, len(rows), length, dtype=torch.long),
            keep=torch.zeros(len(rows), length, dtype=torch.bool),
        )
        for row, (ids, start, positions) in enumerate(rows):
            out.ids[row, : len(ids)] = torch.tensor(ids)
            out.targets[row, start : len(ids)] = torch.tensor(ids[start:])
            out.positions[:, row, : len(ids)] = torch.from_numpy(positions)
            out.keep[row, : len(ids)] = True
        return out

    def prompt_ids(self, exchange: Exchange) -> list[int]:
        """Token ids up to where the assistant begins, with the clip's placeholder repeated."""
        content: list[dict[str, str]] = [{"type": "text", "text": exchange.question}]
        if exchange.has_video:
            content.insert(0, {"type": "video"})
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        if exchange.has_video:
            t, h, w = self.grid
            place = ids.index(self._video_token)
            ids[place : place + 1] = [self._video_token] * (t * h * w // 4)
        return ids

    def _row(self, exchange: Exchange) -> tuple[list[int], int, NDArray[np.int64]]:
        prompt = self.prompt_ids(exchange)
        answer = self._tokenizer(exchange.answer, add_special_tokens=False)["input_ids"]
        ids = [*prompt, *answer, self._tokenizer.eos_token_id]
        return ids, len(prompt), self.positions(ids, exchange.has_video)

    def positions(self, ids: Sequence[int], has_video: bool) -> NDArray[np.int64]:
        """Position ids ``[3, tokens]``, by the one rule of the project."""
        if has_video:
            return self._rule.of_prompt(ids, self.grid, self._seconds_per_grid)
        return self._rule.of_text(ids)


def through_codec(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frames after H.264, so that the model meets its artefacts in training."""
    import av

    from cluster.demo.clips import encode

    file = io.BytesIO()
    encode(file, frames)
    file.seek(0)
    with av.open(file, "r") as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(decoded).astype(np.uint8, copy=False)


def tracks(scenes: Sequence[Scene], side: int) -> Tensor:
    """Places of the shape: x, y and radius per frame, ``[clips, frames, 3]``, about -1 to 1."""
    raw = np.stack([scene.track for scene in scenes]) / np.array([side / 2, side / 2, 8]) - 1
    return torch.from_numpy(raw.astype(np.float32))
