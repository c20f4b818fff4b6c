"""Seats of actors on nodes with fake GPUs, as Ray gives them. Prints them as JSON. (No test file.)

A process of its own: the tests' own Ray stays up.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from cluster.actors.placement import Reservation, Seat, reserve, reserve_worker, worker_room
from tests.cluster.config.test_node_layout import config_of
from wire.errors import DeadlineExceeded

STORE = 80 * 2**20


@contextmanager
def fake_nodes(
    count: int, num_gpus: int, num_cpus: int | None = None, role: str = "", joined_role: str = ""
) -> Iterator[list[str]]:
    """A Ray of so many nodes on this machine, whose first node offers the resource of ``role`` once
    for each GPU, and the others that of ``joined_role``. Yields their ids."""
    num_cpus = 2 * num_gpus if num_cpus is None else num_cpus
    node = {"num_cpus": num_cpus, "num_gpus": num_gpus, "object_store_memory": STORE}
    head = {**node, "resources": {role: num_gpus}} if role else node
    if joined_role:
        node["resources"] = {joined_role: num_gpus}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
    try:
        for _ in range(count - 1):
            cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield [node["NodeID"] for node in ray.nodes()]
    finally:
        ray.shutdown()
        cluster.shutdown()


class Occupant:
    """Sits in a seat, and looks about."""

    def place(self) -> tuple[str, list[int]]:
        return ray.get_runtime_context().get_node_id(), ray.get_gpu_ids()


def occupy(seats: tuple[Seat, ...], num_gpus: float) -> list[Any]:
    """Actors in these seats."""
    occupant: Any = ray.remote(Occupant)
    return [occupant.options(**seat.options(0.1, num_gpus)).remote() for seat in seats]


def counts(reservation: Reservation, nodes: list[str]) -> list[list[int]]:
    """Workers and ranks on each node, by Ray's own table of bundles."""

    def node_of(seat: Seat) -> str:
        table = placement_group_table(seat.group)["bundles_to_node_id"]
        return str(table[seat.bundle])

    seated = [
        [node_of(seat) for seat in seats] for seats in (reservation.workers, reservation.ranks)
    ]
    return [[of_kind.count(node) for node in nodes] for of_kind in seated]


async def pairs(count: int) -> dict[str, Any]:
    """Node and GPUs of engines and ranks that have half a GPU each."""
    reservation = await reserve(config_of(count, count, 0.5, 0.5, num_cpus=0.1))
    engines = occupy(reservation.workers, 0.5)
    ranks = occupy(reservation.ranks, 0.5)
    seen = ray.get([actor.place.remote() for actor in engines + ranks])
    reservation.release()
    return {"engines": seen[:count], "ranks": seen[count:]}


async def mixed(nodes: list[str]) -> dict[str, Any]:
    """Runs of whole GPUs on four nodes of eight."""
    seen: dict[str, Any] = {}
    whole = config_of(16, 16, 1, 1)
    reservation = await reserve(whole)
    seen["16 + 16"] = counts(reservation, nodes)
    seen["groups of 16 + 16"] = [
        len({seat.group.id for seat in seats}) for seats in (reservation.workers, reservation.ranks)
    ]
    seen["room beside 16 + 16"] = worker_room(whole)
    reservation.workers[3].release()  # a worker leaves, and gives its place back alone
    await free(1)
    seen["room once one has left"] = worker_room(whole)
    again = await reserve_worker(whole)
    seen["it comes to the node that has room"] = again.node == reservation.workers[3].node
    again.release()
    reservation.release()
    await free(32)
    elastic = config_of(24, 16, 1, 1, min_workers=4, max_workers=64)
    reservation = await reserve(elastic)
    seen["elastic"] = counts(reservation, nodes)
    reservation.release()
    reservation = await reserve(config_of(8, 16, 2, 1, tensor_parallel_size=2))
    seen["8 of two GPUs + 16"] = counts(reservation, nodes)
    _, gpus = ray.get(occupy(reservation.workers[:1], 2)[0].place.remote())
    seen["GPUs of an engine of two"] = gpus
    reservation.release()
    await free(32)
    other = placement_group([{"GPU": 1}])
    ray.get(other.ready())
    hasty = whole.model_copy(
        update={"cluster": whole.cluster.model_copy(update={"start_timeout_s": 1.0})}
    )
    try:
        await reserve(hasty)
    except DeadlineExceeded as error:
        seen["while one GPU is taken"] = str(error)
    seen["free after it gave up"] = ray.available_resources()["GPU"]
    waiting = asyncio.create_task(reserve(whole))
    await asyncio.sleep(1)
    assert not waiting.done()
    remove_placement_group(other)
    reservation = await waiting
    seen["once it is free"] = counts(reservation, nodes)
    reservation.release()
    return seen


HOLDS_ALL = """
import asyncio, sys, time
import ray
from cluster.actors.placement import reserve
from tests.cluster.actors.seats_on_fake_nodes import occupy, config_of
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
seats = asyncio.run(reserve(config_of(4, 4, 0.5, 0.5, num_cpus=0.1)))
actors = occupy(seats.workers, 0.5) + occupy(seats.ranks, 0.5)
ray.get([actor.place.remote() for actor in actors])
print("held", flush=True)
time.sleep(600)
"""


async def after_a_kill() -> dict[str, Any]:
    """A driver that holds all GPUs is killed, and another run begins at once."""
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, "-c", HOLDS_ALL, address], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "held\n"
    held = ray.available_resources().get("GPU", 0.0)
    driver.kill()
    driver.wait()
    began = time.monotonic()
    reservation = await reserve(config_of(4, 4, 0.5, 0.5, num_cpus=0.1))
    seen = ray.get([actor.place.remote() for actor in occupy(reservation.workers, 0.5)])
    reservation.release()
    return {
        "free while it ran": held,
        "GPUs of the next": sorted(gpu for _, gpus in seen for gpu in gpus),
        "seconds": time.monotonic() - began,
    }


async def roles(nodes: list[str]) -> list[list[int]]:
    """Workers and ranks by node, where the first node is for ranks alone and the second for
    workers alone."""
    config = config_of(2, 2, 1, 1)
    split = config.cluster.model_copy(update={"role_resources": True})
    reservation = await reserve(config.model_copy(update={"cluster": split}))
    seen = counts(reservation, nodes)
    reservation.release()
    return seen


async def free(num_gpus: int) -> None:
    """Wait until that many are."""
    while ray.available_resources().get("GPU") != num_gpus:
        await asyncio.sleep(0.1)


def main() -> int:
    """All figures, as one line of JSON."""
    with fake_nodes(1, 4):
        seen: dict[str, Any] = {"1x4": {"pairs": asyncio.run(pairs(4))}}
        seen["1x4"]["after a kill"] = asyncio.run(after_a_kill())
    with fake_nodes(2, 4, role="learner_rank", joined_role="rollout_worker") as nodes:
        head = nodes.index(ray.get_runtime_context().get_node_id())
        seen["roles"] = asyncio.run(roles([nodes[head], nodes[1 - head]]))
    with fake_nodes(4, 8) as nodes:
        seen["4x8"] = {"pairs": asyncio.run(pairs(32)), **asyncio.run(mixed(nodes))}
    sys.stdout.write(f"{json.dumps(seen)}\n")
    return 0
