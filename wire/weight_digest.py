"""Digests of weights, by tensor: computed on the device where the tensors are, on both sides of a
weight update.

    learner's (name, tensor), ... -> recorded by DigestRecorder -> {name: digest}   as sent
    engine's load_weights(...)    -> recorded by DigestRecorder -> {name: digest}   as loaded

Sum of 64-bit words times odd numbers, modulo 2**64: a change of any one word always changes it,
words that trade places too. It is no defence against an attacker.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch

_WORDS = 1 << 22  # of 8 bytes, at once
_CACHED_WORDS = 1 << 14  # of a CPU, whose caches they fit


class DigestRecorder:
    """Recorder of the digests of tensors that pass through it.

    Example:
        recorder = DigestRecorder()
        model.load_weights(recorder.of(tensors))
        recorder.digests  # {"model.norm.weight": 81, ...}
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def of(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The same tensors, each recorded as it passes."""
        for name, tensor in tensors:
            self._sums[name] = tensor_digest(tensor)
            yield name, tensor

    @property
    def digests(self) -> dict[str, int]:
        """Digest of each tensor by its name."""
        if not self._sums:
            return {}
        values = torch.stack([value.cpu() for value in self._sums.values()]).tolist()
        return dict(zip(self._sums, values, strict=True))


@torch.no_grad()
def tensor_digest(tensor: torch.Tensor) -> torch.Tensor:
    """Digest of a tensor's bytes in the order of its elements: int64, on its device, and nothing
    waits for it."""
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if len(data) % 8 or data.data_ptr() % 8:
        data = torch.nn.functional.pad(data, (0, -len(data) % 8)).clone()
    words = data.view(torch.int64)
    if words.is_cpu:  # numpy needs no memory for the products
        return torch.tensor(_numpy_digest(words.numpy()))
    return _torch_digest(words)


def _torch_digest(words: torch.Tensor) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    odd = torch.arange(1, 2 * min(_WORDS, len(words)), 2, device=words.device)
    for start in range(0, len(words), _WORDS):
        part = words[start : start + _WORDS]
        # the factor of each word is 2 * its place in the whole + 1
        total += (part * odd[: len(part)]).sum() + 2 * start * part.sum()
    return total


def _numpy_digest(words: npt.NDArray[np.int64]) -> int:
    total = 0
    odd = np.arange(1, 2 * min(_CACHED_WORDS, len(words)), 2)
    for start in range(0, len(words), _CACHED_WORDS):
        part = words[start : start + _CACHED_WORDS]
        total += int(np.dot(part, odd[: len(part)])) + 2 * start * int(part.sum())
    return (total + 2**63) % 2**64 - 2**63  # as a signed word
