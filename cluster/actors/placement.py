"""Placement of the workers: connects to Ray, checks that the recipe fits, reserves a placement
group.

A recipe that does not fit is refused at once: Ray itself would wait for ever for its resources.
"""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.actors.ray_address import ray_answers
from cluster.config.recipe import RunConfig
from wire.errors import DeadlineExceeded, PlacementError

Bundle = dict[str, float]

_STARTS = 2


def connect(config: RunConfig, *, debug: bool) -> None:
    """Connect to the Ray that the recipe or RAY_ADDRESS names, or start a local one for the run."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _init(config, debug=debug)
    except ConnectionError as error:
        address = address_of(config)
        raise PlacementError(
            f"no Ray answers at {address}: {error}; "
            "mend cluster.address or RAY_ADDRESS, or leave both out for a local Ray"
        ) from error
    signal.signal(signal.SIGTERM, handler)  # Ray puts its own there, which ends us at once


def _init(config: RunConfig, *, debug: bool) -> None:
    address = address_of(config)
    if address and not ray_answers(address):
        raise ConnectionError("no connection to it")
    if address:
        ray.init(address=address, log_to_driver=True)
        return
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own default lets anyone go first
    _start_local(
        include_dashboard=False,
        log_to_driver=debug,
        logging_level=logging.ERROR,
        object_store_memory=int(config.cluster.object_store_mb * 2**20),
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )


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


def bundles(config: RunConfig) -> list[Bundle]:
    """Resources per actor: rollout workers first, then learner ranks."""
    rollout = _bundle(config.rollout.num_cpus, config.rollout.num_gpus)
    learner = _bundle(config.learner.num_cpus, config.learner.num_gpus)
    return [rollout] * config.rollout.num_workers + [learner] * config.learner.num_ranks


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


def check_fits(wanted: list[Bundle], nodes: list[Bundle]) -> None:
    """Raise PlacementError unless every bundle finds a node (first fit, largest first).

    ``nodes``: resources of each node of the cluster, used or not.
    """
    left = [dict(node) for node in nodes]
    for bundle in sorted(wanted, key=lambda b: (-b.get("GPU", 0), -b["CPU"])):
        place = next((n for n in left if all(n.get(k, 0) >= v for k, v in bundle.items())), None)
        if place is None:
            raise PlacementError(_explain(wanted, nodes))
        for name, amount in bundle.items():
            place[name] -= amount


@asynccontextmanager
async def reserved(config: RunConfig, *, debug: bool) -> AsyncIterator[PlacementGroup]:
    """Connect to Ray and hold a place for every worker during the block; both end with it.

    Raises PlacementError, DeadlineExceeded.
    """
    connect(config, debug=debug)
    try:
        group = await reserve(config)
        try:
            yield group
        finally:
            remove_placement_group(group)
    finally:
        ray.shutdown()


async def reserve(config: RunConfig) -> PlacementGroup:
    """Reserve a place for every worker. Raises PlacementError, DeadlineExceeded."""
    wanted = bundles(config)
    check_fits(wanted, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    group: PlacementGroup = placement_group(wanted, strategy="PACK")
    timeout = config.cluster.start_timeout_s
    if not await asyncio.to_thread(group.wait, timeout):
        remove_placement_group(group)
        raise DeadlineExceeded(
            f"the cluster is large enough, but its resources were not free within {timeout:.0f} s; "
            "wait for other jobs to end, or raise cluster.start_timeout_s"
        )
    return group


def _bundle(cpus: float, gpus: float) -> Bundle:
    return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}


def _explain(wanted: list[Bundle], nodes: list[Bundle]) -> str:
    def total(what: str, of: list[Any]) -> float:
        return float(sum(part.get(what, 0) for part in of))

    asked = ", ".join(f"{total(kind, wanted):g} {kind}s" for kind in ("CPU", "GPU"))
    have = "; ".join(f"{n.get('CPU', 0):g} CPUs, {n.get('GPU', 0):g} GPUs" for n in nodes)
    return (
        f"the recipe places {len(wanted)} workers that need {asked} in all, and the cluster's "
        "nodes have: "
        f"{have}; lower rollout.num_workers, learner.num_ranks or their num_cpus / num_gpus, or "
        "add nodes"
    )


def bundle_options(group: PlacementGroup, index: int) -> dict[str, Any]:
    """Actor options that take the whole of one bundle."""
    bundle = group.bundle_specs[index]
    return {
        "num_cpus": bundle.get("CPU", 0),
        "num_gpus": bundle.get("GPU", 0),
        "scheduling_strategy": PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=index
        ),
    }
