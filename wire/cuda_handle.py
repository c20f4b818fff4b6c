"""CUDA memory handles as plain values: what torch ships to another process to open a buffer.

    torch's arguments (classes, dtype, bytes) -> encode -> numbers and bytes -> decode -> arguments

torch's own form holds classes, which vLLM's messages carry only in an insecure mode, where the
receiver would run what it is sent.
"""

from collections.abc import Sequence
from typing import Any

import torch

from wire.errors import WeightUpdateError

# of torch.multiprocessing.reductions.rebuild_cuda_tensor, in its order
_TENSOR_CLASS, _SIZE, _STRIDE, _STORAGE_CLASS, _DTYPE, _NUM_ARGUMENTS = 0, 1, 2, 4, 5, 15
_CLASSES = {_TENSOR_CLASS: torch.Tensor, _STORAGE_CLASS: torch.storage.TypedStorage}
_PLAIN = (int, bool, bytes, type(None))


def encode(arguments: Sequence[Any]) -> list[Any]:
    """Numbers and bytes of a handle of a uint8 buffer. Raises WeightUpdateError if it is another
    kind of handle than torch made when this was written."""
    values = list(arguments)
    fits = (
        len(values) == _NUM_ARGUMENTS
        and all(values[place] is kind for place, kind in _CLASSES.items())
        and values[_DTYPE] is torch.uint8
    )
    if fits:
        values[_SIZE], values[_STRIDE] = list(values[_SIZE]), list(values[_STRIDE])
        for place in (*_CLASSES, _DTYPE):
            values[place] = None
        plain = [*values[_SIZE], *values[_STRIDE], *(v for v in values if not isinstance(v, list))]
        if all(isinstance(value, _PLAIN) for value in plain):
            return values
    raise WeightUpdateError(
        f"torch {torch.__version__} makes CUDA handles of another form than is known here "
        f"({[type(value).__name__ for value in arguments]}); use transfer.kind = 'object_store'"
    )


def decode(values: Sequence[Any]) -> tuple[Any, ...]:
    """Arguments of torch's ``rebuild_cuda_tensor``."""
    arguments = list(values)
    for place, kind in _CLASSES.items():
        arguments[place] = kind
    arguments[_DTYPE] = torch.uint8
    arguments[_SIZE] = torch.Size(arguments[_SIZE])
    arguments[_STRIDE] = tuple(arguments[_STRIDE])
    return tuple(arguments)
