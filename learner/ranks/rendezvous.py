"""Rendezvous of the learner's ranks: a TCPStore on a port that rank 0 holds from the start.

    rank 0: listen -> port -> every rank: meet -> store for torch.distributed

The port is held from the moment it is known. One that is looked up, given back and opened later
would sometimes be another program's by then: ranks take long to import what they need.
"""

from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented there

_opened: TCPStore | None = None
"""The store that this process opened, as torch.distributed's group is the process's."""


def open_rendezvous(num_ranks: int) -> int:
    """Open a rendezvous for ``num_ranks`` ranks in this process; returns its port, which the system
    chose."""
    global _opened
    _opened = TCPStore("localhost", 0, num_ranks, is_master=True, wait_for_workers=False)
    return _opened.port


def join_rendezvous(num_ranks: int, address: str, port: int, timeout_s: float) -> TCPStore:
    """The store at ``port`` of the node at ``address``, opened there by :func:`open_rendezvous`.

    Raises torch.distributed.DistError if nobody listens there within the timeout.
    """
    if _opened is not None and _opened.port == port:
        return _opened
    timeout = timedelta(seconds=timeout_s)
    return TCPStore(address, port, num_ranks, timeout=timeout, wait_for_workers=False)
