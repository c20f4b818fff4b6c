"""Ranks meet at a port that nobody else can take."""

import socket
from multiprocessing import get_context
from multiprocessing.queues import Queue

import pytest
import torch
import torch.distributed as dist

from learner.ranks.rendezvous import join_rendezvous, open_rendezvous


def test_the_port_is_held_from_the_moment_it_is_known():
    port = open_rendezvous(2)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", port))


def test_who_opened_it_goes_in_by_its_own_store():
    port = open_rendezvous(1)
    assert join_rendezvous(1, "localhost", port, 5.0) is join_rendezvous(1, "localhost", port, 5.0)
    assert join_rendezvous(1, "localhost", port, 5.0).port == port


def test_where_nobody_listens_the_wait_ends():
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    with pytest.raises(dist.DistError):
        join_rendezvous(2, "localhost", port, 1.0)


def join(rank: int, port: int, sums: "Queue[float]") -> None:
    dist.init_process_group(
        "gloo", store=join_rendezvous(2, "localhost", port, 60), rank=rank, world_size=2
    )
    value = torch.tensor(rank + 1.0)
    dist.all_reduce(value)
    sums.put(float(value))
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_that_did_not_open_it_meet_there():
    """As the doctor's ranks do."""
    port, context = open_rendezvous(2), get_context("spawn")
    sums: Queue[float] = context.Queue()
    ranks = [context.Process(target=join, args=(rank, port, sums)) for rank in range(2)]
    for process in ranks:
        process.start()
    assert [sums.get(timeout=120) for _ in ranks] == [3.0, 3.0]
    for process in ranks:
        process.join(30)
