"""Low-shot training of a split: the new rows learn from a few clips of the sub-classes.

    start (aligned rows, the coarse row, or random) -> cross-entropy over all logits -> new rows

The loss is over old and new logits together, so that a row learns to stand apart from the labels
that were there. Those get no gradient; ``whole_head`` trains them too, which is the control that
shows why not: no clip of theirs is seen, and they are pushed down.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibrate.splitting.config import LowShotConfig
from calibrate.splitting.dictionary import Floats
from calibrate.splitting.early_stop import EmaStop
from calibrate.splitting.edit import SplitHead
from calibrate.splitting.one_thread import one_thread
from wire.errors import DataError

if TYPE_CHECKING:
    import torch

_RANDOM_STD = 0.02
_RANDOM_CUT = 2.0  # standard deviations


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A head whose new rows were trained."""

    head: SplitHead
    losses: tuple[float, ...]
    """Mean training loss of each epoch."""
    best_epoch: int
    """Epoch, from 1, whose rows these are."""


def coarse_start(head: SplitHead) -> SplitHead:
    """The head with every new row equal to the coarse one: where training without a zero-shot
    edit begins."""
    return replace(
        head,
        vectors=np.zeros_like(head.vectors),
        bias_shifts=np.zeros_like(head.bias_shifts),
    )


def random_start(head: SplitHead, seed: int) -> SplitHead:
    """The head with new rows from a normal distribution of deviation 0.02, cut at two deviations,
    and biases 0."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=head.vectors.shape)
    while (wide := np.abs(rows) > _RANDOM_CUT).any():
        rows[wide] = draw.normal(size=int(wide.sum()))
    return _with_rows(head, rows * _RANDOM_STD, np.zeros(len(head.parts)))


@one_thread()
def fine_tune(
    start: SplitHead,
    features: Floats,
    truth: Sequence[int] | NDArray[np.integer],
    *,
    seed: int,
    config: LowShotConfig | None = None,
) -> Tuned:
    """Train the new rows of ``start`` on ``features`` [N, D] of clips of the split label, whose
    parts are ``truth`` [N], numbers from 0. ``seed`` draws batches and dropout."""
    import torch
    from torch.nn.functional import cross_entropy, linear

    config = config or LowShotConfig()
    inputs, targets = _shots(start, features, truth)
    weight, bias, rows, biases = (
        torch.tensor(values, dtype=torch.float32)
        for values in (start.weight, start.bias, start.rows, start.biases)
    )
    trained = [rows, biases] if config.trains == "new_rows" else [rows, biases, weight, bias]
    for tensor in trained:
        tensor.requires_grad_()
    optimizer = torch.optim.AdamW(
        trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.max_epochs)
    stop: EmaStop[list[torch.Tensor]] = EmaStop(
        decay=config.ema_decay, patience=config.patience, min_gain=config.min_gain
    )
    draw = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(config.max_epochs):
        total = 0.0
        for batch in torch.randperm(len(inputs), generator=draw).split(config.batch_size):
            kept = torch.rand(inputs[batch].shape, generator=draw) >= config.dropout
            x = inputs[batch] * kept / (1 - config.dropout)
            logits = torch.cat([linear(x, weight, bias), linear(x, rows, biases)], dim=1)
            loss = cross_entropy(logits, targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        schedule.step()
        losses.append(total / len(inputs))
        if stop.ends(-losses[-1], lambda: [tensor.detach().clone() for tensor in trained]):
            break
    assert stop.best is not None, "there is at least one epoch"
    new_rows, new_biases, *old = (tensor.numpy().astype(np.float64) for tensor in stop.best)
    if old:
        kind = start.weight.dtype
        start = replace(start, weight=old[0].astype(kind), bias=old[1].astype(kind))
    return Tuned(
        head=_with_rows(start, new_rows, new_biases),
        losses=tuple(losses),
        best_epoch=stop.best_epoch,
    )


def _shots(
    start: SplitHead, features: Floats, truth: Sequence[int] | NDArray[np.integer]
) -> "tuple[torch.Tensor, torch.Tensor]":
    import torch

    parts = np.asarray(truth, np.int64)
    width = start.weight.shape[1]
    if features.ndim != 2 or features.shape[1] != width or len(features) != len(parts):
        raise DataError(
            f"features {list(features.shape)} and {len(parts)} labels of shots; expected one label "
            f"for each of [N, {width}]"
        )
    if not np.isfinite(features).all():
        raise DataError("features of the shots are not all finite; extract them anew")
    if len(parts) == 0 or parts.min() < 0 or parts.max() >= len(start.parts):
        raise DataError(
            f"shots have parts {sorted(set(parts.tolist()))}; expected at least one clip, and "
            f"numbers from 0 to {len(start.parts) - 1}"
        )
    inputs = torch.tensor(features, dtype=torch.float32)
    return inputs, torch.from_numpy(parts + len(start.names))


def _with_rows(head: SplitHead, rows: Floats, biases: Floats) -> SplitHead:
    vectors = rows - head.weight[head.coarse]
    shifts = biases - head.bias[head.coarse]
    return replace(
        head,
        vectors=vectors.astype(head.weight.dtype),
        bias_shifts=shifts.astype(head.bias.dtype),
    )
