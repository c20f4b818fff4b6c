"""Machine of the service: cores, GPUs and memory of each classifier that may be loaded at once.

Fits have cores and GPUs of their own (calibrate/service/jobs), so that they never starve answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.classify.machine import Machine
from wire.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingMachine:
    """What loaded classifiers may use.

    Example:
        ServingMachine(machine=Machine(num_gpus=1), max_loaded=2, gpus=(0,))
    """

    machine: Machine
    """All of it together."""
    max_loaded: int = 1
    """They share the memory; cores, too: threads that wait would spin."""
    cpus: tuple[int, ...] = ()
    """Cores by number; none: those of this process."""
    gpus: tuple[int, ...] = ()
    """GPUs by index, on which all of them are; none: the first ones that are seen."""

    def __post_init__(self) -> None:
        if self.gpus and len(self.gpus) < self.machine.num_gpus:
            raise ConfigError(
                f"{len(self.gpus)} GPUs for serving, where an engine needs {self.machine.num_gpus}"
            )

    @property
    def of_each(self) -> Machine:
        """Machine of one classifier."""
        share = self.max_loaded
        return replace(
            self.machine,
            gpu_memory=self.machine.gpu_memory / share,
            clip_gb=self.machine.clip_gb / share,
            num_threads=max(1, (len(self.cpus) or self.machine.num_threads) // share),
        )

    @property
    def environment(self) -> dict[str, str]:
        """Environment of its processes."""
        if not self.gpus:
            return {}
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, self.gpus))}


def order_of(directory: str, machine: Machine, cpus: Sequence[int]) -> dict[str, Any]:
    """The message that starts a worker."""
    return {
        "directory": directory,
        "cpus": list(cpus),
        "machine": {
            "num_gpus": machine.num_gpus,
            "gpu_memory": machine.gpu_memory,
            "num_threads": machine.num_threads,
            "cache_dir": None if machine.cache_dir is None else str(machine.cache_dir),
            "in_flight": machine.in_flight,
            "clip_gb": machine.clip_gb,
            "servers": list(machine.servers),
        },
    }
