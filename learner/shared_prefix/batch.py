"""Rows -> tensors of one micro-batch, packed into a single row without padding.

    Rows + processed clips -> TrainBatch

Groups lie one after another, each as [prompt | response 1 | ... | response G]
(learner/shared_prefix/layout.py). The positions of a response start at 1 + the largest position of
its prompt, so its logprobs are those of the prompt followed by that response alone. A clip that
occurs in several groups is held, and seen by the vision tower, once.

L tokens of the row, N response tokens, C distinct clips, V video tokens.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learner.shared_prefix.clip_features import ClipFeatures, moved
from learner.shared_prefix.layout import Layout
from learner.shared_prefix.rows import Row
from video.positions import PositionRule, Positions, of_response
from video.processor import ProcessedClip
from wire.token_arrays import Logprobs, TokenIds


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """One micro-batch, ready for the model."""

    input_ids: Int[Tensor, "1 L"]
    position_ids: Int[Tensor, "3 1 L"]
    layout: Layout
    """Positions of the groups; which tokens attend to which follows from it."""
    pixel_values: Float[Tensor, "P D"]
    """Patches of the batch's distinct clips; none where ``seen`` is given."""
    grid_thw: Int[Tensor, "C 3"]
    """Grids of the distinct clips, in the order in which they first occur."""
    patch_at: Int[Tensor, " V"]
    """Index of the merged patch of the distinct clips that each video token of the batch stands
    for."""
    predict_at: Int[Tensor, " N"]
    """Place in the row of the token whose output predicts each response token."""
    target: Int[Tensor, " N"]
    advantage: Float[Tensor, " N"]
    logp_rollout: Float[Tensor, " N"]
    logp_old: Float[Tensor, " N"]
    """NaN where the forward pass's own logprob is to be taken."""
    logp_ref: Float[Tensor, " N"]
    """NaN where no reference model was asked."""
    mask: Bool[Tensor, " N"]
    """False for tokens of fillers."""
    temperature: Float[Tensor, " N"] | None
    """Divisor of the logits; None: 1, for all of them."""
    lengths: tuple[int, ...]
    """Tokens of each response, in the order of rows and responses; they add up to N."""
    seen: ClipFeatures | None = None
    """Vision-tower features of the distinct clips; None: the forward pass computes them."""

    def to(self, device: torch.device | str) -> "TrainBatch":
        """Move the batch to the model's device."""
        tensors: dict[str, Any] = {
            field.name: moved(value, device)
            for field in fields(self)
            if torch.is_tensor(value := getattr(self, field.name))
        }
        return replace(self, **tensors, seen=self.seen and self.seen.to(device))


def micro_batches(rows: Iterable[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Cut rows, in order, into micro-batches of at most ``max_tokens`` tokens; a longer row is one
    by itself."""
    held: list[Row] = []
    num_tokens = 0
    for row in rows:
        if held and num_tokens + row.num_tokens > max_tokens:
            yield held
            held, num_tokens = [], 0
        held.append(row)
        num_tokens += row.num_tokens
    if held:
        yield held


def make_batch(
    rows: Sequence[Row],
    clip_of: Callable[[Row], ProcessedClip],
    rule: PositionRule,
    seen_of: Callable[[Row], ClipFeatures] | None = None,
) -> TrainBatch:
    """Tensors of one micro-batch.

    ``clip_of`` loads a row's clip and raises ParityError if it is not what the rollout saw.
    ``seen_of`` gives what the vision tower makes of it, where that is known already; then the batch
    holds no pixels. Both are called once per distinct clip, and never for a row without video
    tokens, as those of narratives in text are.
    """
    first_of: dict[str, Row] = {}
    for row in rows:
        if rule.is_video(row.prompt.token_ids).any():
            first_of.setdefault(row.prompt.clip_key, row)
    clips = {key: clip_of(row) for key, row in first_of.items()}
    pixels = [clip.pixel_values[: 0 if seen_of else None] for clip in clips.values()]
    seen = [seen_of(row) for row in first_of.values()] if seen_of else []
    layout = Layout.of(
        [(len(row.prompt.token_ids), [len(r.token_ids) for r in row.responses]) for row in rows]
    )
    responses = [response for row in rows for response in row.responses]
    parts = [
        ids for row in rows for ids in (row.prompt.token_ids, *(r.token_ids for r in row.responses))
    ]
    lengths = torch.tensor([len(response.token_ids) for response in responses])
    positions = np.concatenate([_positions(row, clips, rule) for row in rows], axis=1)
    return TrainBatch(
        input_ids=_tokens(parts)[None],
        position_ids=torch.from_numpy(positions)[:, None],
        layout=layout,
        pixel_values=torch.from_numpy(np.concatenate(pixels)) if pixels else torch.empty(0, 0),
        grid_thw=torch.tensor([c.grid_thw for c in clips.values()], dtype=torch.long).reshape(
            -1, 3
        ),
        patch_at=_patches(rows, clips, rule.merge_size),
        predict_at=torch.from_numpy(layout.predict_at),
        target=_tokens([r.token_ids for r in responses]),
        advantage=torch.tensor([r.advantage for r in responses]).repeat_interleave(lengths),
        logp_rollout=_logprobs([r.rollout_logprobs for r in responses], lengths),
        logp_old=_logprobs([r.old_logprobs for r in responses], lengths),
        logp_ref=_logprobs([r.ref_logprobs for r in responses], lengths),
        mask=torch.tensor([r.trains for r in responses]).repeat_interleave(lengths),
        temperature=_temperatures([r.temperature for r in responses], lengths),
        lengths=tuple(lengths.tolist()),
        seen=ClipFeatures.join(seen) if seen_of else None,
    )


def _positions(row: Row, clips: dict[str, ProcessedClip], rule: PositionRule) -> Positions:
    """Position ids of a prompt and its responses, int64 [3, L]."""
    ids = row.prompt.token_ids
    if (clip := clips.get(row.prompt.clip_key)) is not None:
        prompt = rule.of_prompt(ids, clip.grid_thw, clip.seconds_per_grid)
    else:
        prompt = rule.of_text(ids)
    responses = [of_response(prompt, len(response.token_ids)) for response in row.responses]
    return np.concatenate([prompt, *responses], axis=1)


def _patches(
    rows: Sequence[Row], clips: dict[str, ProcessedClip], merge_size: int
) -> Int[Tensor, " V"]:
    """For every video token of the rows, its merged patch among those of the distinct clips."""
    sizes = [math.prod(clip.grid_thw) // merge_size**2 for clip in clips.values()]
    spans = dict(
        zip(clips, itertools.pairwise(itertools.accumulate(sizes, initial=0)), strict=True)
    )
    keys = [row.prompt.clip_key for row in rows if row.prompt.clip_key in clips]
    return torch.tensor([patch for key in keys for patch in range(*spans[key])], dtype=torch.long)


def _tokens(parts: Sequence[TokenIds]) -> Int[Tensor, " N"]:
    return torch.from_numpy(np.concatenate(parts, dtype=np.int64))


def _temperatures(
    temperatures: Sequence[float], lengths: Int[Tensor, " R"]
) -> Float[Tensor, " N"] | None:
    if all(temperature == 1 for temperature in temperatures):
        return None
    return torch.tensor(temperatures).repeat_interleave(lengths)


def _logprobs(parts: Sequence[Logprobs | None], lengths: Int[Tensor, " R"]) -> Float[Tensor, " N"]:
    """Logprobs of all response tokens; NaN where a response has none."""
    values = [
        np.full(length, np.nan, np.float32) if part is None else np.asarray(part)
        for part, length in zip(parts, lengths.tolist(), strict=True)
    ]
    return torch.from_numpy(np.concatenate(values))
