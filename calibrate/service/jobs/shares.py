"""Shares of the machine: cores and GPUs of fits, apart from those that answer.

    cores 0 1 2 3, fit_cpus = 1 -> serving 0 1 2, fits 3
    GPUs of fits                -> CUDA_VISIBLE_DEVICES of their processes; without any: none

Fits keep to theirs, at a lower priority. Where ``fit_cpus`` is not set they have half of the cores,
which serving may use as well: there its priority is the higher one.
"""

from collections.abc import Sequence

from calibrate.service.config import ServiceConfig
from wire.errors import ConfigError


def fit_cores(cores: Sequence[int], config: ServiceConfig) -> tuple[int, ...]:
    """Cores of fits: the last ones. Raises ConfigError if there are not so many."""
    if config.fit_cpus is not None and config.fit_cpus > len(cores):
        raise ConfigError(
            f"fit_cpus={config.fit_cpus}: this process may use {len(cores)} cores; lower it"
        )
    count = config.fit_cpus or max(1, len(cores) // 2)
    return tuple(sorted(cores)[-count:])


def serving_cores(cores: Sequence[int], config: ServiceConfig) -> tuple[int, ...]:
    """Cores of answers: those that fits do not have where ``fit_cpus`` is set, else all."""
    taken = set(fit_cores(cores, config)) if config.fit_cpus is not None else set()
    return tuple(core for core in sorted(cores) if core not in taken) or tuple(sorted(cores))


def fit_environment(cores: Sequence[int], gpus: Sequence[int]) -> dict[str, str]:
    """Environment of a fit's process: its GPUs, and as many compute threads as it has cores."""
    threads = str(len(cores))
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in gpus),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
    }
