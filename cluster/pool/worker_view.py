"""View of the pool's workers: RUN/fleet.json, which the pool rewrites at each change and anyone
reads.

Membership -> FleetView -> fleet.json -> deepintuit workers, deepintuit status, report

Healthy is not serving: the conditions say apart whether a worker's engine runs, whether its weights
are proven to be the newest, and whether it gets requests. cluster/pool/fleet_view.py makes the
view.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cluster.pool.worker_health import Condition as ConditionType
from cluster.pool.worker_health import HealthState
from wire.whole_file import replace_json

FLEET_FILE = "fleet.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Condition of a worker.

    Example:
        Condition(type="Serving", status=False, since=1764529200.0)
    """

    type: ConditionType
    status: bool
    since: float
    """Unix time at which it last changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """View of one worker.

    Example:
        WorkerView(name="rollout-3", state=HealthState.STALE, since=1764529200.0, cause="started",
                   restarts=1, version=None, node="10.0.0.7", pid=712, num_requests=0)
    """

    name: str
    state: HealthState
    since: float
    """Unix time at which it came to its state."""
    cause: str
    """Why: a :class:`cluster.pool.worker_health.Cause`, or text."""
    restarts: int = 0
    """Times that its engine was started anew."""
    version: str | None = None
    """Version of its weights as last proven, such as ``0.41``: attempt 0, version step 41."""
    node: str | None = None
    pid: int | None = None
    """Process of its actor on that node."""
    num_requests: int = 0
    """Requests in its hands when the file was written."""
    busy_s: float = 0.0
    """Seconds in which it had any, since it joined."""
    conditions: tuple[Condition, ...] = ()
    failed_probes: int = 0
    """In a row, as the two below."""
    failed_requests: int = 0
    failed_updates: int = 0
    last_heard: float = 0.0
    """Unix time at which its engine last answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """View of the pool.

    Example:
        FleetView(time=1764529200.0, attempt=0, epoch=7, desired=4, version="0.41", workers=())
    """

    time: float
    """Unix time of writing."""
    attempt: int
    epoch: int
    """Epoch of membership: grows with every change of the set of engines that run."""
    desired: int
    """Number of workers that the pool is to have."""
    version: str | None
    """The newest version of the weights: last sent, or being sent."""
    workers: tuple[WorkerView, ...]
    min_workers: int = 1
    max_workers: int = 1
    num_waiting: int = 0
    """Requests that wait for a worker."""
    num_moved: int = 0
    """Times that a request left a worker for another one, since the start."""
    num_failed: int = 0
    """Requests that the fleet failed for good, since the start."""


_ADAPTER = TypeAdapter(FleetView)


def write_fleet(run_dir: Path, view: FleetView) -> None:
    """Replace a run's view of its workers. Raises OSError."""
    replace_json(run_dir / FLEET_FILE, asdict(view))


def read_fleet(run_dir: Path) -> FleetView | None:
    """The last view of a run's workers; None without one that can be read."""
    try:
        return _ADAPTER.validate_json((run_dir / FLEET_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
