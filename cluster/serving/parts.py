"""Parts of the service that know engines, decoders and learners, for one machine.

Machine + ServiceConfig -> service_parts -> Parts (calibrate/service/service.py)
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from calibrate.service.config import ServiceConfig
from calibrate.service.jobs.shares import serving_cores
from calibrate.service.protocols import ClassifierBackend
from calibrate.service.service import Parts
from cluster.classify.machine import Machine
from cluster.serving.backend import ProcessBackend
from cluster.serving.inspector import PoolInspector
from cluster.serving.machine import ServingMachine
from cluster.serving.traces import ArchiveTraces
from wire.errors import ConfigError

FIT_COMMAND = (sys.executable, "-m", "cluster.serving.fit_process")


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCluster:
    """Ray cluster on which classifiers run as replicas."""

    address: str | None
    """None: RAY_ADDRESS, or a local Ray."""
    least: int
    most: int

    @classmethod
    def of(cls, address: str, replicas: str) -> Self:
        """Of the words of a command line: ``replicas`` is a number, or two with a hyphen. Raises
        ConfigError."""
        first, hyphen, second = replicas.partition("-")
        try:
            least, most = int(first), int(second if hyphen else first)
        except ValueError:
            least = most = 0
        if not 1 <= least <= most:
            raise ConfigError(
                f"--replicas {replicas}: expected a number from 1, or two such as 1-4"
            )
        return cls(address=address or os.environ.get("RAY_ADDRESS") or None, least=least, most=most)


def service_parts(
    machine: Machine,
    gpus: Sequence[int],
    config: ServiceConfig,
    cluster: RayCluster | None = None,
) -> Parts:
    """Parts of a service on this machine; ``gpus``: all that there are, by index. With a
    ``cluster`` its classifiers run there. Raises ConfigError if fits leave too few of them to the
    classifiers, PlacementError if no Ray answers."""
    return Parts(
        backend=_backend(machine, gpus, config, cluster),
        inspector=PoolInspector(max_frames=config.max_frames, max_pixels=config.max_pixels),
        traces=ArchiveTraces(config.archives),
        fit_command=FIT_COMMAND,
    )


def _backend(
    machine: Machine, gpus: Sequence[int], config: ServiceConfig, cluster: RayCluster | None
) -> ClassifierBackend:
    if cluster is not None:
        from cluster.serving.ray_replicas import RayServeBackend, Replicas

        replicas = Replicas(least=cluster.least, most=cluster.most)
        serving = ServingMachine(machine=machine)  # Ray gives each replica what it asks for
        return RayServeBackend(serving, replicas, address=cluster.address)
    serving = ServingMachine(
        machine=machine,
        max_loaded=config.max_loaded,
        cpus=serving_cores(tuple(os.sched_getaffinity(0)), config),
        gpus=_gpus_of_serving(machine, gpus, config) if machine.num_gpus else (),
    )
    return ProcessBackend(serving, config.state / "logs")


def _gpus_of_serving(
    machine: Machine, gpus: Sequence[int], config: ServiceConfig
) -> tuple[int, ...]:
    """The first GPUs that fits do not have."""
    if unknown := sorted(set(config.fit_gpus) - set(gpus)):
        raise ConfigError(
            f"--fit-gpus {unknown[0]}: there are {len(gpus)} GPUs; give indices below that"
        )
    left = [gpu for gpu in gpus if gpu not in config.fit_gpus]
    if len(left) < machine.num_gpus:
        raise ConfigError(
            f"--fit-gpus leaves {len(left)} of {len(gpus)} GPUs, and --gpus {machine.num_gpus} "
            "asks for more; lower one of them"
        )
    return tuple(left[: machine.num_gpus])
