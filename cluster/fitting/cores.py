"""Cores of fits beside other work: this process and all that it starts keep to them, at a lower
priority, with as many compute threads as there are cores."""

import os
from collections.abc import Sequence

from cluster.config.recipe import RunConfig

_NICENESS = 10  # what the fit runs beside comes first


def keep_to(cores: Sequence[int] | None) -> None:
    """Keep this process, and those that it starts, to some cores (None: all) and behind others."""
    os.nice(_NICENESS)
    if cores is not None:
        os.sched_setaffinity(0, cores)


def with_threads(config: RunConfig, num_cores: int | None) -> RunConfig:
    """The recipe with learner ranks that fit into so many cores; None: as it is."""
    if num_cores is None:
        return config
    threads = max(1, num_cores // config.learner.num_ranks)
    learner = config.learner.model_copy(update={"num_threads": threads})
    return config.model_copy(update={"learner": learner})
