"""Modifier Alignment: a small network from texts to rows of the head, trained on the head itself.

    text of a group   -> its prototype          text of a label    -> its row
    text of a modifier -> its vector            text of a singleton -> its row

    g(x) = W2 gelu(W1 x + b1) + b2;   loss: mean squared error;   row of s = w_c + g(modifier of s)

No clip is looked at. Training stops by an average of the training cosine, and the best weights are
taken. Embeddings enter as they are, not normalised; rows are brought to one size for the training
and back (ours), because a head with a strong penalty has rows too small for its learning rate.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibrate.splitting.config import AlignmentConfig
from calibrate.splitting.dictionary import Dictionary, Floats
from calibrate.splitting.early_stop import EmaStop
from calibrate.splitting.one_thread import one_thread
from calibrate.splitting.protocols import TextEncoder

if TYPE_CHECKING:
    import torch


_ROOT_MEAN_SQUARE = 0.5  # of a vector's values in training


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Texts and the vectors that they stand for."""

    texts: tuple[str, ...]
    vectors: Floats
    """[N, D]"""


def training_pairs(dictionary: Dictionary) -> Pairs:
    """Pairs of all groups, labels, modifiers and singletons, in this order."""
    d = dictionary
    return Pairs(
        texts=d.groups + d.labels + d.texts + d.singletons,
        vectors=np.concatenate([d.prototypes, d.weights, d.modifiers, d.singleton_weights]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligner:
    """Trained network; ``vectors`` applies it."""

    layers: tuple[NDArray[np.float32], ...]
    """W1 [H, E], b1 [H], W2 [D, H], b2 [D]"""
    cosine: float
    """Mean cosine over the training pairs, with these weights."""
    cosines: tuple[float, ...]
    """The same after each epoch of training."""
    best_epoch: int
    """Epoch, from 1, whose weights these are."""

    @property
    def num_parameters(self) -> int:
        """Number of trained values."""
        return sum(layer.size for layer in self.layers)

    @one_thread()
    def vectors(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Vectors [k, D] of texts' ``embeddings`` [k, E]."""
        import torch

        with torch.no_grad():
            result = _forward(_aligned(embeddings), *map(_aligned, self.layers))
        vectors: NDArray[np.float32] = result.numpy()
        return vectors


@one_thread()
def fit_alignment(
    dictionary: Dictionary,
    encoder: TextEncoder,
    *,
    seed: int,
    config: AlignmentConfig | None = None,
) -> Aligner:
    """Train the network on the dictionary's pairs; ``seed`` draws its start and the batches."""
    import torch

    config = config or AlignmentConfig()
    pairs = training_pairs(dictionary)
    inputs = _aligned(encoder.encode(pairs.texts))
    scale = float(np.sqrt(np.square(pairs.vectors).mean())) / _ROOT_MEAN_SQUARE or 1.0
    targets = _aligned(pairs.vectors / scale)
    draw = torch.Generator().manual_seed(seed)
    width = config.hidden or targets.shape[1]
    sizes = ((width, inputs.shape[1]), (targets.shape[1], width))
    layers = [tensor for rows, columns in sizes for tensor in _linear(rows, columns, draw)]
    optimizer = torch.optim.AdamW(
        layers, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.max_epochs)
    stop: EmaStop[list[torch.Tensor]] = EmaStop(
        decay=config.ema_decay, patience=config.patience, min_gain=config.min_gain
    )
    cosines = []
    for _ in range(config.max_epochs):
        for batch in torch.randperm(len(inputs), generator=draw).split(config.batch_size):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(_forward(inputs[batch], *layers), targets[batch])
            loss.backward()
            optimizer.step()
        schedule.step()
        cosines.append(_mean_cosine(inputs, targets, layers))
        if stop.ends(cosines[-1], lambda: [layer.detach().clone() for layer in layers]):
            break
    assert stop.best is not None, "there is at least one epoch"
    w1, b1, w2, b2 = (layer.numpy() for layer in stop.best)
    return Aligner(
        layers=(w1, b1, w2 * np.float32(scale), b2 * np.float32(scale)),
        cosine=cosines[stop.best_epoch - 1],
        cosines=tuple(cosines),
        best_epoch=stop.best_epoch,
    )


def _aligned(values: NDArray[np.floating]) -> "torch.Tensor":
    """A copy in torch's own memory: in numpy's, the last bits depend on where an array lies."""
    import torch

    return torch.tensor(values, dtype=torch.float32)


def _linear(rows: int, columns: int, draw: "torch.Generator") -> "list[torch.Tensor]":
    """Weight and bias of a layer, uniform as torch draws them, by a generator of one's own."""
    import torch

    bound = columns**-0.5
    shapes: tuple[tuple[int, ...], ...] = ((rows, columns), (rows,))
    return [
        ((torch.rand(shape, generator=draw) * 2 - 1) * bound).requires_grad_() for shape in shapes
    ]


def _forward(x: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
    from torch.nn.functional import gelu, linear

    return linear(gelu(linear(x, w1, b1)), w2, b2)


def _mean_cosine(inputs: Any, targets: Any, layers: Any) -> float:
    import torch

    with torch.no_grad():
        outputs = _forward(inputs, *layers)
        cosine = torch.nn.functional.cosine_similarity(outputs, targets, dim=1)
    return float(cosine.mean())
