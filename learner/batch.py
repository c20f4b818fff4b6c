"""Rows -> padded tensors of one micro-batch.

    Rows + processed clips -> TrainBatch

A row is laid out as [prompt | response 1 | ... | response G | padding]. Each response sees the
prompt and itself; its positions start at 1 + the largest position of the prompt, so its logprobs
are those of the prompt followed by that response alone. The mask is dense: a row's length squared.

B rows, L tokens of the longest row, N response tokens in all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learner.rows import Row
from video.positions import PositionRule, of_response
from video.processor import ProcessedClip

_PADDING, _PROMPT = -1, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """One micro-batch, ready for the model."""

    input_ids: Int[Tensor, "B L"]
    position_ids: Int[Tensor, "3 B L"]
    attention: Bool[Tensor, "B 1 L L"]
    pixel_values: Float[Tensor, "P D"]
    grid_thw: Int[Tensor, "B 3"]
    predict_at: Int[Tensor, " N"]
    """Index into B * L of the token whose output predicts each response token."""
    target: Int[Tensor, " N"]
    advantage: Float[Tensor, " N"]
    logp_rollout: Float[Tensor, " N"]
    logp_old: Float[Tensor, " N"]
    """NaN where the forward pass's own logprob is to be taken."""
    logp_ref: Float[Tensor, " N"]
    """NaN where no reference model was asked."""
    mask: Bool[Tensor, " N"]
    """False for tokens of fillers."""
    lengths: tuple[int, ...]
    """Tokens of each response, in the order of rows and responses; they add up to N."""


def micro_batches(rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Cut rows, in order, into micro-batches of at most ``max_tokens`` padded tokens."""
    held: list[Row] = []
    longest = 0
    for row in rows:
        wider = max(longest, row.num_tokens)
        if held and wider * (len(held) + 1) > max_tokens:
            yield held
            held, wider = [], row.num_tokens
        held.append(row)
        longest = wider
    if held:
        yield held


def make_batch(
    rows: Sequence[Row], clip_of: Callable[[Row], ProcessedClip], rule: PositionRule
) -> TrainBatch:
    """Tensors of one micro-batch.

    ``clip_of`` loads a row's clip and raises ParityError if it is not what the rollout saw.
    """
    length = max(row.num_tokens for row in rows)
    shape = (len(rows), length)
    ids, segments = np.zeros(shape, np.int64), np.full(shape, _PADDING)
    positions = np.zeros((3, *shape), np.int64)
    clips = [clip_of(row) for row in rows]
    predict_at = []
    for number, (row, clip) in enumerate(zip(rows, clips, strict=True)):
        prompt = rule.of_prompt(row.prompt.token_ids, clip.grid_thw, clip.seconds_per_grid)
        end = len(row.prompt.token_ids)
        ids[number, :end] = row.prompt.token_ids
        segments[number, :end] = _PROMPT
        positions[:, number, :end] = prompt
        last_of_prompt = end - 1
        for segment, response in enumerate(row.responses, start=1):
            start, end = end, end + len(response.token_ids)
            ids[number, start:end] = response.token_ids
            segments[number, start:end] = segment
            positions[:, number, start:end] = of_response(prompt, end - start)
            predict_at += [number * length + last_of_prompt]
            predict_at += range(number * length + start, number * length + end - 1)
    responses = [response for row in rows for response in row.responses]
    return TrainBatch(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        attention=shared_prefix_mask(torch.from_numpy(segments)),
        pixel_values=torch.from_numpy(np.concatenate([clip.pixel_values for clip in clips])),
        grid_thw=torch.tensor([clip.grid_thw for clip in clips]),
        predict_at=torch.tensor(predict_at),
        target=torch.tensor([token for r in responses for token in r.token_ids]),
        advantage=_per_token([[r.advantage] * len(r.token_ids) for r in responses]),
        logp_rollout=_per_token([r.rollout_logprobs or _unknown(r.token_ids) for r in responses]),
        logp_old=_per_token([r.old_logprobs or _unknown(r.token_ids) for r in responses]),
        logp_ref=_per_token([r.ref_logprobs or _unknown(r.token_ids) for r in responses]),
        mask=torch.tensor([r.trains for r in responses for _ in r.token_ids]),
        lengths=tuple(len(r.token_ids) for r in responses),
    )


def shared_prefix_mask(segments: Int[Tensor, "B L"]) -> Bool[Tensor, "B 1 L L"]:
    """Who sees whom: one's own segment's past, and the prompt (segment 0).

    Padding (-1) sees only itself.
    """
    length = segments.shape[1]
    past = torch.ones(length, length, dtype=torch.bool).tril()
    same = segments[:, :, None] == segments[:, None, :]
    prompt = (segments[:, None, :] == _PROMPT) & (segments[:, :, None] != _PADDING)
    real = segments[:, None, :] != _PADDING
    seen = past & (same | prompt) & real
    return (seen | torch.eye(length, dtype=torch.bool))[:, None]


def _per_token(values: Sequence[Sequence[float]]) -> Float[Tensor, " N"]:
    return torch.tensor([value for part in values for value in part], dtype=torch.float32)


def _unknown(tokens: Sequence[int]) -> list[float]:
    return [float("nan")] * len(tokens)
