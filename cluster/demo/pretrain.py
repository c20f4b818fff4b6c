"""Trains the demo's base model from nothing, on clips rendered on the fly.

    sight     vision tower alone, with heads that ask for event and place
    language  the whole model: clips named in many wordings, and sentences without a clip

What it is told, and what it is never told, is listed in ``texts.py``. Looks come from the pool
``train`` only. Nothing here measures accuracy on the looks of other splits to choose anything.
"""

import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cluster.demo.batches import IGNORE, Batch, Preparer, through_codec, tracks
from cluster.demo.events import EVENTS, all_triples, stable_hash
from cluster.demo.render import render
from cluster.demo.scenes import FAST, FRAMES_PER_EVENT, NUM_FRAMES, POOLS, SIDE, Scene, draw_scene
from cluster.demo.sight import SightHeads, see
from cluster.demo.texts import caption, sentence
from cluster.demo.tiny_model import build_model, build_processor

logger = logging.getLogger(__name__)

_SEED = 0
_STEP_FRAMES = 2  # temporal patch size
_LOG_EVERY = 50


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps, learning rates and batch sizes of the training stages."""

    sight_steps: int = 900
    sight_lr: float = 2e-3
    language_steps: int = 450
    language_lr: float = 1.5e-3
    clips: int = 48
    sentences: int = 24
    codec_share: float = 0.05


@dataclass(frozen=True, slots=True)
class Clips:
    """Rendered clips with their events and tracks."""

    scenes: list[Scene]
    pixels: Tensor
    events: Tensor
    """Index of the event at each temporal patch, ``[clips, steps]``."""
    track: Tensor


def pretrain(out_dir: Path, schedule: Schedule | None = None) -> Path:
    """Train the base model and save it, with its processor, in half precision."""
    schedule = schedule or Schedule()
    processor = build_processor()
    model = build_model(processor.tokenizer, _SEED)
    preparer = Preparer(model, processor)
    train_sight(model, preparer, schedule)
    train_language(model, preparer, schedule)
    save(model, processor, out_dir)
    return out_dir


def save(model: Any, processor: Any, out_dir: Path) -> None:
    """Save in bf16: half the size, and exact again when loaded as fp32."""
    out_dir.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out_dir)
    processor.save_pretrained(out_dir)
    logger.info("saved the demo's base model in %s", out_dir)


def train_sight(model: Any, preparer: Preparer, schedule: Schedule) -> None:
    """The vision tower learns to see; the heads are thrown away."""
    visual = model.model.visual
    torch.manual_seed(_SEED)
    width = model.config.vision_config.out_hidden_size
    heads = SightHeads(width, tokens_per_step=4)
    parameters = [*visual.parameters(), *heads.parameters()]

    def losses(clips: Clips, index: int) -> tuple[Tensor, float]:
        tokens = see(visual, clips.pixels, preparer.grid)
        loss, accuracy = heads.loss(tokens, clips.events, clips.track)
        return loss, accuracy.item()

    batches = stream_clips("sight", preparer, schedule, schedule.sight_steps)
    _train("sight", parameters, schedule.sight_lr, schedule.sight_steps, batches, losses)


def train_language(model: Any, preparer: Preparer, schedule: Schedule) -> None:
    """The whole model learns to name what it sees, and to read and write."""

    def losses(clips: Clips, index: int) -> tuple[Tensor, float]:
        rng = np.random.default_rng(stable_hash("texts", _SEED, index))
        exchanges = [caption(scene.events, rng) for scene in clips.scenes]
        # Half of the questions are short: two batches waste less on padding than one.
        order = sorted(range(len(exchanges)), key=lambda i: len(exchanges[i].question))
        halves = (order[: len(order) // 2], order[len(order) // 2 :])
        tokens = see(model.model.visual, clips.pixels, preparer.grid)
        answer_losses = [
            answer_loss(model, preparer.batch([exchanges[i] for i in half]), tokens[half])
            for half in halves
        ]
        read = preparer.batch([sentence(rng) for _ in range(schedule.sentences)])
        read_loss, _ = answer_loss(model, read, None)
        loss = (answer_losses[0][0] + answer_losses[1][0]) / 2 + 0.5 * read_loss
        return loss, (answer_losses[0][1] + answer_losses[1][1]) / 2

    batches = stream_clips("language", preparer, schedule, schedule.language_steps)
    steps = schedule.language_steps
    _train("language", list(model.parameters()), schedule.language_lr, steps, batches, losses)


def answer_loss(model: Any, batch: Batch, video_tokens: Tensor | None) -> tuple[Tensor, float]:
    """Mean loss over the answers' tokens, and the share of them that is the first choice."""
    embedded = model.get_input_embeddings()(batch.ids)
    if video_tokens is not None:
        places = (batch.ids == model.config.video_token_id)[..., None]
        embedded = embedded.masked_scatter(places, video_tokens)
    hidden = model.model.language_model(
        inputs_embeds=embedded, position_ids=batch.positions, attention_mask=batch.keep
    ).last_hidden_state
    targets = batch.targets[:, 1:]
    asked = targets != IGNORE
    logits = model.lm_head(hidden[:, :-1][asked])
    accuracy = (logits.argmax(-1) == targets[asked]).float().mean()
    return F.cross_entropy(logits, targets[asked]), accuracy.item()


def stream_clips(stage: str, preparer: Preparer, schedule: Schedule, steps: int) -> Iterator[Clips]:
    """Fresh clips for each step, prepared one step ahead. Sight begins with fast motion."""
    triples = all_triples()

    def prepare(index: int) -> Clips:
        rng = np.random.default_rng(stable_hash(stage, _SEED, index))
        fast_share = 1.6 - 3 * index / steps if stage == "sight" else 0
        scenes = []
        for _ in range(schedule.clips):
            events = triples[int(rng.integers(len(triples)))]
            pool = FAST if rng.random() < fast_share else POOLS["train"]
            scenes.append(draw_scene(pool, events, int(rng.integers(1 << 62))))
        frames = [
            through_codec(drawn) if rng.random() < schedule.codec_share else drawn
            for drawn in map(render, scenes)
        ]
        return gather(scenes, frames, preparer)

    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(prepare, 0)
        for index in range(steps):
            clips = coming.result()
            coming = pool.submit(prepare, index + 1)
            yield clips


def gather(scenes: list[Scene], frames: list[NDArray[np.uint8]], preparer: Preparer) -> Clips:
    """One batch out of scenes and their frames."""
    starts = range(0, NUM_FRAMES, _STEP_FRAMES)
    events = [[EVENTS.index(s.events[i // FRAMES_PER_EVENT]) for i in starts] for s in scenes]
    return Clips(scenes, preparer.pixels(frames), torch.tensor(events), tracks(scenes, SIDE))


def _train(
    name: str,
    parameters: list[Tensor],
    lr: float,
    steps: int,
    batches: Iterator[Clips],
    losses: Callable[[Clips, int], tuple[Tensor, float]],
) -> None:
    """Train with AdamW, a warm-up and a cosine to zero."""
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.02, betas=(0.9, 0.98))
    warm_up = min(100, steps // 10 + 1)

    def factor(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for index, clips in enumerate(batches):
        loss, accuracy = losses(clips, index)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        if index % _LOG_EVERY == 0 or index == steps - 1:
            logger.info(
                "%s %d/%d: loss %.3f, right %.3f", name, index, steps, loss.item(), accuracy
            )
