"""View of the fleet, made from the pool's parts.

Membership, Dispatcher, Supervisor -> fleet_view -> cluster/pool/worker_view.py -> fleet.json
"""

from cluster.pool.clock import Clock, unix_time_of
from cluster.pool.dispatch import Dispatcher
from cluster.pool.membership import Membership
from cluster.pool.settings import PoolSettings
from cluster.pool.worker_health import WorkerHealth
from cluster.pool.worker_view import Condition, FleetView, WorkerView


def fleet_view(
    members: Membership,
    dispatcher: Dispatcher,
    clock: Clock,
    settings: PoolSettings,
    *,
    desired: int,
    attempt: int,
) -> FleetView:
    """View of the fleet now."""
    now = clock.monotonic()
    return FleetView(
        time=unix_time_of(now, now),
        attempt=attempt,
        epoch=members.epoch,
        desired=desired,
        version=None if members.newest is None else str(members.newest),
        workers=tuple(_worker_view(worker, dispatcher, now) for worker in members.workers),
        min_workers=settings.min_workers,
        max_workers=settings.max_workers,
        num_waiting=dispatcher.num_waiting,
        num_moved=dispatcher.num_moved,
        num_failed=dispatcher.num_failed,
    )


def _worker_view(worker: WorkerHealth, dispatcher: Dispatcher, now: float) -> WorkerView:
    place = worker.place
    return WorkerView(
        name=worker.name,
        state=worker.state,
        since=unix_time_of(worker.since, now),
        cause=worker.cause,
        restarts=worker.restarts,
        version=None if worker.version is None else str(worker.version),
        node=place.node if place else None,
        pid=place.pid if place else None,
        num_requests=dispatcher.busy(worker.name),
        busy_s=dispatcher.busy_s(worker.name),
        conditions=tuple(
            Condition(type=kind, status=holds, since=unix_time_of(worker.flipped[kind], now))
            for kind, holds in worker.conditions.items()
        ),
        failed_probes=worker.failed_probes,
        failed_requests=worker.failed_requests,
        failed_updates=worker.failed_updates,
        last_heard=unix_time_of(worker.last_heard, now),
    )
