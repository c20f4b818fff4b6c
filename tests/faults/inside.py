"""Faults inside of a learner rank, at an exact call. (No test file.)

The driver sends one of these to a rank's process as a call of Ray's own (``__ray_call__``); the
next matching call there acts, in the middle of its work.
"""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

_COLLECTIVES = ("all_reduce", "reduce", "reduce_scatter_tensor", "all_gather_into_tensor")


def _end_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_forward(_rank: Any, number: int = 20) -> int:
    """This process ends in the forward pass, before the module of that number."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    left = [number]

    def count(*_: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            _end_self()

    register_module_forward_pre_hook(count)
    return os.getpid()


def at_collective(_rank: Any) -> int:
    """This process ends where it would join the others in a collective."""
    import torch.distributed

    for name in _COLLECTIVES:
        setattr(torch.distributed, name, lambda *_args, **_named: _end_self())
    return os.getpid()


def at_rename(_rank: Any) -> int:
    """This process ends where it would give a file of a checkpoint its name."""
    os.replace = os.rename = lambda *_args, **_named: _end_self()  # type: ignore[assignment]
    return os.getpid()


ACTS: Mapping[str, Callable[[Any], int]] = {
    "forward": at_forward,
    "all-reduce": at_collective,
    "in-save": at_rename,
}
"""By the moment that they are for."""


def after_first_bucket(_rank: Any, victims: Sequence[int], number: int) -> int:
    """These processes get a signal once the engines have loaded the first part of an update."""
    from cluster.actors.bucket_client import BucketClient

    update: Callable[..., None] = BucketClient.update_weights

    def updating(self: BucketClient, update_info: Any) -> None:
        update(self, update_info)
        if update_info["header"]["index"] == 0:
            self.await_sent()
            BucketClient.update_weights = update  # type: ignore[method-assign]
            for pid in victims:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    BucketClient.update_weights = updating  # type: ignore[method-assign]
    return os.getpid()
