"""Table of faults: what is done to a run, to whom, when, and what heals it. (No test file.)

Rows of the same ``run`` share one: two workers and two ranks are started once for all of them.
"""

from tests.faults.fault import Fault

_RANKS = ("learner.num_ranks=2", "learner.zero_stage=2", "learner.max_restarts=5")
_WORKERS = (
    "rollout.num_workers=2",
    "fleet_health.probe_interval_s=1",
    "fleet_health.probe_timeout_s=15",
    "rollout.pause_timeout_s=15",
    "fleet_health.unhealthy_threshold=2",
    "fleet_health.max_restart_attempts=20",
)
_BOTH = (*_WORKERS, *_RANKS)
_LOST = r"rollout-\d+ is dead \("
_DEAD_RANK = "all ranks start anew"

_HELPERS = (
    Fault(
        name="decode helpers",
        role="decode helpers",
        moment="serving",
        step=0,
        run="one",
        settings=_BOTH,
        healed_by="decoder",
        limit_s=30,
    ),
    Fault(
        name="reward worker",
        role="reward worker",
        moment="serving",
        step=2,
        run="one",
        healed_by="reward",
        limit_s=30,
    ),
    Fault(
        name="reward guard",
        role="reward guard",
        moment="serving",
        step=4,
        run="one",
        healed_by="reward",
        limit_s=60,
    ),
    Fault(
        name="object store pressure",
        role="driver",
        moment="serving",
        act="fill-store",
        for_s=15,
        step=6,
        run="one",
        limit_s=30,
    ),
)
_ENDED = (
    Fault(name="archive writer", role="driver", moment="append", healed_by="resume", limit_s=240),
    Fault(name="driver", role="driver", moment="in-update", healed_by="resume", limit_s=240),
    Fault(
        name="full disk",
        role="driver",
        moment="in-update",
        act="full-disk",
        healed_by="resume",
        limit_s=240,
        line=r"the disk of .* is full",
    ),
)


def _worker(name: str, role: str, moment: str, step: int, **more: object) -> Fault:
    return Fault(
        name=name,
        role=role,
        moment=moment,  # type: ignore[arg-type]
        step=step,
        run="one",
        healed_by="worker",
        limit_s=180,
        line=_LOST,
        settings=_BOTH,
        **more,  # type: ignore[arg-type]
    )


_OF_WORKERS = (
    _worker("rollout actor", "rollout actor", "serving", 17),
    _worker("engine, serving", "engine", "serving", 20),
    _worker("engine, mid-update", "engine", "mid-update", 23),
    _worker("engine, idle", "engine", "idle", 26),
    _worker("engine's process group", "engine group", "serving", 29),
    _worker("engine hangs", "engine", "serving", 32, act="STOP"),
)
_OF_RANKS = tuple(
    Fault(
        name=f"learner rank, {moment}",
        role="rank",
        moment=moment,  # type: ignore[arg-type]
        step=step,
        run="one",
        healed_by="rank",
        limit_s=180,
        line=_DEAD_RANK,
        settings=_BOTH,
    )
    for step, moment in ((8, "forward"), (11, "all-reduce"), (14, "in-save"))
)
_OF_NODES = (
    Fault(
        name="network hiccup of 20 s",
        role="node",
        moment="serving",
        act="STOP",
        for_s=20,
        step=2,
        run="nodes",
        limit_s=40,
        settings=_WORKERS,
        nodes=4,
    ),
    Fault(
        name="node",
        role="node",
        moment="serving",
        step=5,
        run="nodes",
        healed_by="worker",
        limit_s=240,
        line=_LOST,
        settings=_WORKERS,
        nodes=4,
    ),
)
FAULTS = (*_HELPERS, *_ENDED, *_OF_WORKERS, *_OF_RANKS, *_OF_NODES)
BY_NAME = {fault.name: fault for fault in FAULTS}
