"""Parts of the service that know engines, decoders and learners, for one machine.

Machine + ServiceConfig -> service_parts -> Parts (calibrate/service/service.py)
"""

import os
import sys
from collections.abc import Sequence

from calibrate.service.config import ServiceConfig
from calibrate.service.jobs.shares import serving_cores
from calibrate.service.service import Parts
from cluster.classify.machine import Machine
from cluster.serving.backend import ProcessBackend
from cluster.serving.inspector import PoolInspector
from cluster.serving.machine import ServingMachine
from cluster.serving.traces import ArchiveTraces
from wire.errors import ConfigError

FIT_COMMAND = (sys.executable, "-m", "cluster.serving.fit_process")


def service_parts(machine: Machine, gpus: Sequence[int], config: ServiceConfig) -> Parts:
    """Parts of a service on this machine; ``gpus``: all that there are, by index. Raises
    ConfigError if fits leave too few of them to the classifiers."""
    serving = ServingMachine(
        machine=machine,
        max_loaded=config.max_loaded,
        cpus=serving_cores(tuple(os.sched_getaffinity(0)), config),
        gpus=_gpus_of_serving(machine, gpus, config) if machine.num_gpus else (),
    )
    return Parts(
        backend=ProcessBackend(serving, config.state / "logs"),
        inspector=PoolInspector(max_frames=config.max_frames, max_pixels=config.max_pixels),
        traces=ArchiveTraces(config.archives),
        fit_command=FIT_COMMAND,
    )


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
