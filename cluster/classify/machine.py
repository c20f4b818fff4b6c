"""Machine of a classifier in use: the GPUs, memory and threads that it may take."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wire.errors import ConfigError

_IN_FLIGHT = {"cuda": 256, "cpu": 64}
"""On a CPU more at a time make no step cheaper."""

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What of this machine the classifier may use.

    Example:
        Machine(num_gpus=1, gpu_memory=0.5)
    """

    num_gpus: int = 0
    """GPUs of each engine; 0: CPU."""
    gpu_memory: float = 0.9
    """Share of a GPU's memory for all engines together."""
    num_threads: int = 2
    """Cores of a CPU that engines share, but for one that decoders and this process use."""
    cache_dir: Path | None = None
    """Processed clips are kept here; none: the node's usual folder."""
    in_flight: int = 64
    """Clips decoded or answered at a time, at most."""
    clip_gb: float = 4.0
    """Memory that they may take, about; then fewer are in flight."""

    servers: tuple[str, ...] = ()
    """URLs of vLLM servers that hold the classifier's weights; none: engines of this machine."""

    def __post_init__(self) -> None:
        if not 0 < self.gpu_memory <= 1:
            raise ConfigError(f"a share of {self.gpu_memory} of a GPU's memory; expected 0 to 1")
        if self.in_flight < 1:
            raise ConfigError(f"{self.in_flight} clips in flight; expected 1 or more")

    def __str__(self) -> str:
        if self.servers:
            return f"engines at {', '.join(self.servers)}"
        if self.num_gpus:
            return f"{self.num_gpus} GPU" + "s" * (self.num_gpus > 1)
        return f"CPU, {self.num_threads} threads"


def count_gpus() -> int:
    """Number of GPUs that PyTorch sees."""
    import torch

    return torch.cuda.device_count()


def machine_of(
    *,
    device: Device,
    num_gpus: int,
    gpu_memory: float,
    in_flight: int | None,
    cache_dir: Path | None,
    servers: Sequence[str] = (),
) -> Machine:
    """The machine with a choice of ``device``; auto: GPUs if PyTorch sees any, none beside
    ``servers``. Raises ConfigError if there are fewer than ``num_gpus``."""
    if num_gpus < 1:
        raise ConfigError(f"--gpus {num_gpus}: expected 1 or more; for none, give --device cpu")
    device = "cpu" if servers else device
    there = count_gpus() if device != "cpu" else 0
    if there < num_gpus and (there or device == "cuda"):
        raise ConfigError(
            f"{num_gpus} GPUs are asked for, PyTorch sees {there}; lower --gpus, or give "
            "--device cpu"
        )
    return Machine(
        num_gpus=num_gpus if there else 0,
        gpu_memory=gpu_memory,
        num_threads=len(os.sched_getaffinity(0)),
        cache_dir=cache_dir,
        servers=tuple(servers),
        in_flight=in_flight if in_flight is not None else _IN_FLIGHT["cuda" if there else "cpu"],
    )
