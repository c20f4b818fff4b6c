"""Determinism of a learner rank: seeds, random state, repeatable kernels.

seed_all -> training -> random_state -> checkpoint -> set_random_state
"""

import os
import random

import numpy as np
import torch
from torch import Tensor

_PYTHON, _NUMPY, _TORCH, _CUDA = "python", "numpy", "torch", "cuda"


def be_repeatable() -> None:
    """Make torch repeatable: the same kernels and the same order of sums in every run; warn where
    torch has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def seed_all(seed: int) -> None:
    """Seed every generator of this process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # CUDA's, too


def random_state() -> dict[str, Tensor]:
    """The state of every generator of this process, as plain tensors."""
    _, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert name == "MT19937"
    states = {
        _PYTHON: torch.tensor(words, dtype=torch.int64),
        f"{_PYTHON}.gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        _NUMPY: torch.from_numpy(np.asarray(keys).astype(np.int64)),
        f"{_NUMPY}.rest": torch.tensor([position, has_gauss, cached], dtype=torch.float64),
        _TORCH: torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states[_CUDA] = torch.cuda.get_rng_state()
    return states


def set_random_state(state: dict[str, Tensor]) -> None:
    """Restore :func:`random_state`'s generators; the state of a GPU is skipped where there is
    none."""
    gauss = state[f"{_PYTHON}.gauss"].tolist()
    random.setstate((3, tuple(state[_PYTHON].tolist()), gauss[0] if gauss else None))
    position, has_gauss, cached = state[f"{_NUMPY}.rest"].tolist()
    keys = state[_NUMPY].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))
    torch.set_rng_state(state[_TORCH])
    if torch.cuda.is_available() and _CUDA in state:
        torch.cuda.set_rng_state(state[_CUDA])
