"""View of the pool's workers: RUN/fleet.json, which the pool rewrites at each change and anyone
reads.

Membership -> FleetView -> fleet.json -> deepintuit workers, deepintuit status, report
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cluster.pool.worker_health import HealthState
from wire.whole_file import replace_json

FLEET_FILE = "fleet.json"


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
    """Restarts of its engine that the budget counts."""
    version: str | None = None
    """Version of its weights as last proven, such as ``0.41``: attempt 0, version step 41."""
    node: str | None = None
    pid: int | None = None
    """Process of its actor on that node."""
    num_requests: int = 0
    """Requests in its hands when the file was written."""


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
    """Epoch of membership: grows with every change of who serves or is a member."""
    desired: int
    """Number of workers that the pool is to have."""
    version: str | None
    """The newest version of the weights."""
    workers: tuple[WorkerView, ...]


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
