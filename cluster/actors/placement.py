"""Placement of the workers: connects to Ray, checks that the recipe fits, reserves a seat for each.

A recipe that does not fit is refused at once: Ray itself would wait for ever for its resources. One
that fits waits until they are free, for all of its workers at once. A placement group cannot grow,
so each rollout worker has its own, and may come and go; learner ranks, all or none, share one.
"""

import asyncio
import logging
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray._private.state import available_resources_per_node
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.actors.ray_address import ray_answers
from cluster.config.node_layout import (
    PAIR,
    ROLES,
    Bundle,
    Kind,
    kinds_of,
    lay_out,
    lay_out_run,
    room_for,
    start_sizes,
    worker_kind,
)
from cluster.config.recipe import RunConfig
from wire.errors import DeadlineExceeded, PlacementError

_STARTS = 2
_TRY_S = 5.0  # of one layout: another job may have taken what was free
_LOOK_S = 0.5  # between looks at what is free
_NODE_LABEL = "ray.io/node-id"


def connect(config: RunConfig, *, debug: bool) -> None:
    """Connect to the Ray that the recipe or RAY_ADDRESS names, or start a local one for the run.
    Raises PlacementError."""
    connect_to(
        address_of(config),
        object_store_mb=config.cluster.object_store_mb,
        debug=debug,
        remedy="mend cluster.address or RAY_ADDRESS, or leave both out for a local Ray",
    )


def connect_to(address: str | None, *, object_store_mb: float, debug: bool, remedy: str) -> None:
    """Connect to the Ray at an address; None: start a local one. Raises PlacementError, with
    ``remedy``, if none answers."""
    handler = signal.getsignal(signal.SIGTERM)
    if address and not ray_answers(address):
        raise PlacementError(f"no Ray answers at {address}: no connection to it; {remedy}")
    try:
        _init(address, object_store_mb, debug=debug)
    except ConnectionError as error:
        raise PlacementError(f"no Ray answers at {address}: {error}; {remedy}") from error
    signal.signal(signal.SIGTERM, handler)  # Ray puts its own there, which ends us at once


def _init(address: str | None, object_store_mb: float, *, debug: bool) -> None:
    if address:
        ray.init(address=address, log_to_driver=True)
        return
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own default lets anyone go first
    # of 100,000 calls, Ray's default, the head remembers 350 MB, which it takes over some hours
    os.environ.setdefault("RAY_task_events_max_num_task_in_gcs", "10000")
    _start_local(
        include_dashboard=False,
        log_to_driver=debug,
        logging_level=logging.ERROR,
        object_store_memory=int(object_store_mb * 2**20),
        runtime_env=_environment(sys.executable),
    )


def _environment(python: str) -> dict[str, Any]:
    """Ray's runtime environment of the workers of a local Ray, for this interpreter. Ray hands its
    path to a shell as it is: one with a space would start no worker."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    quoted = shlex.quote(python)
    other = {} if quoted == python else {"py_executable": quoted}
    return {"env_vars": {"PYTHONPATH": paths}, **other}


def _start_local(**options: Any) -> None:
    """Start a local Ray, trying twice. Ray gives its processes 30 s, which cannot be set and may be
    too few on a busy machine; the second time their files are in memory."""
    for _ in range(_STARTS):
        try:
            ray.init(address="local", **options)
        except Exception as error:  # Ray raises no class of its own
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
        else:
            return
    raise PlacementError(
        f"Ray did not come up here within 30 s, {_STARTS} times: the machine is too busy; end "
        "other work, or start Ray beforehand (ray start --head) and set RAY_ADDRESS=auto"
    )


def address_of(config: RunConfig) -> str | None:
    """Address of the Ray to connect to; None: a local one for the run."""
    return config.cluster.address or os.environ.get("RAY_ADDRESS") or None


def nodes(config: RunConfig) -> list[Bundle]:
    """Resources of each node that a run would have, without starting a local Ray. Raises
    PlacementError if the Ray that the recipe names does not answer."""
    if address_of(config) is None:
        return [_this_machine()]
    connect(config, debug=False)
    try:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _this_machine() -> Bundle:
    """Resources of this machine, as a local Ray counts them."""
    spec = ResourceAndLabelSpec().resolve(is_head=True)
    return {"CPU": float(spec.num_cpus or 0), "GPU": float(spec.num_gpus or 0)}


def require_fit(
    config: RunConfig, nodes: Sequence[Bundle], *, engines: bool = True
) -> list[list[int]]:
    """The layout of a run's workers over nodes (cluster/config/node_layout.py), or a
    PlacementError.

    ``nodes``: resources of each node of the cluster, used or not; ``engines``: False for learner
    ranks alone.
    """
    layout = lay_out_run(config, nodes, engines=engines)
    if layout is None:
        least = start_sizes(config)[-1]
        raise PlacementError(_explain(kinds_of(config, engines=engines, num_workers=least), nodes))
    return layout


@dataclass(frozen=True, slots=True)
class Seat:
    """Reserved place of an actor: a bundle of a placement group. An engine and a rank that share a
    GPU have the same seat."""

    group: PlacementGroup
    bundle: int
    node: str
    """Ray's id of the node."""

    def options(self, num_cpus: float, num_gpus: float) -> dict[str, Any]:
        """Ray options of an actor that sits here."""
        return {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                placement_group=self.group, placement_group_bundle_index=self.bundle
            ),
        }

    def release(self) -> None:
        """Give the seat back, with all others of its group; actors that sit there end."""
        remove_placement_group(self.group)

    @property
    def is_on_live_node(self) -> bool:
        """Whether its node is still part of the cluster."""
        return self.node in {node["NodeID"] for node in _alive()}


@dataclass(frozen=True, slots=True)
class Reservation:
    """Seats of a run's actors, held until :meth:`release`."""

    workers: tuple[Seat, ...]
    """Of the rollout workers."""
    ranks: tuple[Seat, ...]
    """Of the learner ranks."""

    def release(self) -> None:
        """Give the resources back; actors that sit there end."""
        for group in {seat.group.id: seat.group for seat in self.workers + self.ranks}.values():
            remove_placement_group(group)


@asynccontextmanager
async def reserved(
    config: RunConfig, *, debug: bool, engines: bool = True
) -> AsyncIterator[Reservation]:
    """Connect to Ray and hold a seat for every actor during the block; both end with it.
    ``engines``: False for learner ranks alone.

    Raises PlacementError, DeadlineExceeded.
    """
    connect(config, debug=debug)
    try:
        reservation = await reserve(config, engines=engines)
        try:
            yield reservation
        finally:
            reservation.release()
    finally:
        ray.shutdown()


async def reserve(config: RunConfig, *, engines: bool = True) -> Reservation:
    """Reserve a seat for every actor, all or none. Raises PlacementError, DeadlineExceeded."""
    require_fit(config, [node["Resources"] for node in _alive()], engines=engines)
    timeout = config.cluster.start_timeout_s
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0:
        if (reservation := await _try_to_reserve(config, min(left, _TRY_S), engines)) is not None:
            return reservation
    raise DeadlineExceeded(
        f"the cluster is large enough, but its resources were not free within {timeout:.0f} s; "
        "wait for other jobs to end, or raise cluster.start_timeout_s"
    )


async def _try_to_reserve(
    config: RunConfig, patience_s: float, engines: bool
) -> Reservation | None:
    """Reserve what is free now, laid out anew; None if something else took it meanwhile."""
    free = free_resources()
    names = list(free)
    layout = lay_out_run(config, list(free.values()), engines=engines)
    if layout is None:
        await asyncio.sleep(min(patience_s, _LOOK_S))
        return None
    nodes = [[names[node] for node in of_kind] for of_kind in layout]
    kinds = kinds_of(config, engines=engines)
    together = kinds[-1], nodes[-1]  # ranks, or pairs
    alone = [(kinds[0], [node]) for of_kind in nodes[:-1] for node in of_kind]
    groups = await _groups([*alone, together], patience_s)
    if groups is None:
        return None
    *workers, ranks = groups
    if engines and config.colocated:
        return Reservation(ranks, ranks)
    return Reservation(tuple(seat for (seat,) in workers), ranks)


async def reserve_worker(config: RunConfig, refused: Set[str] = frozenset()) -> Seat:
    """Reserve a seat for one more rollout worker, on the largest of the nodes but ``refused`` ones.
    Raises PlacementError if there is no room now."""
    free, kind = free_resources(refused), worker_kind(config)
    layout = lay_out([kind], list(free.values()))
    if layout is not None:
        node = list(free)[layout[0][0]]
        if (groups := await _groups([(kind, [node])], _TRY_S)) is not None:
            return groups[0][0]
    raise PlacementError(_explain([kind], list(free.values())))


def worker_room(config: RunConfig, refused: Set[str] = frozenset()) -> int:
    """How many more rollout workers the cluster has room for now."""
    return room_for(worker_kind(config), list(free_resources(refused).values()))


def free_resources(refused: Set[str] = frozenset()) -> dict[str, Bundle]:
    """Resources that are free now on each node but ``refused`` ones, by Ray's id of it."""
    free: Mapping[str, Bundle] = available_resources_per_node()
    names = [name for node in _alive() if (name := node["NodeID"]) not in refused]
    return {name: free[name] for name in names if name in free}


async def _groups(
    wanted: Sequence[tuple[Kind, Sequence[str]]], patience_s: float
) -> list[tuple[Seat, ...]] | None:
    """Seats of groups of workers, each worker on its node; None, and no group, if one of them
    is not there by then."""
    groups = [
        placement_group(
            [kind.bundle for _ in nodes],
            strategy="PACK",
            bundle_label_selector=[{_NODE_LABEL: node} for node in nodes],
        )
        for kind, nodes in wanted
    ]
    ready = [False]
    try:
        ready = await asyncio.gather(*[asyncio.to_thread(g.wait, patience_s) for g in groups])
    finally:
        if not all(ready):
            for group in groups:
                remove_placement_group(group)
    if not all(ready):
        return None
    return [
        tuple(Seat(group, bundle, node) for bundle, node in enumerate(nodes))
        for group, (_, nodes) in zip(groups, wanted, strict=True)
    ]


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _explain(kinds: Sequence[Kind], nodes: Sequence[Bundle]) -> str:
    def shown(amounts: Mapping[str, float]) -> str:
        return ", ".join(f"{amounts.get(name, 0):g} {name}s" for name in named)

    wanted = Counter[str]()
    for kind in kinds:
        wanted.update({name: kind.count * amount for name, amount in kind.bundle.items()})
    named = ("CPU", "GPU", *(role for role in ROLES if wanted[role]))
    count = sum(kind.count for kind in kinds)
    workers = f"{count} pairs of engine and rank" if kinds[0].name == PAIR else f"{count} workers"
    asked, have = shown(wanted), "; ".join(map(shown, nodes))
    return (
        f"the recipe places {workers} that need {asked} in all, and the cluster's nodes have: "
        f"{have}; lower rollout.num_workers, learner.num_ranks or their num_cpus / num_gpus, or "
        "add nodes" + ("; nodes offer roles by ray start --resources" if len(named) > 2 else "")
    )
