"""When a fault was healed, by the run's own events. (No test file.)"""

from collections.abc import Callable
from pathlib import Path

from cluster.metrics.events import Event, read_events
from tests.faults.fault import Fault, Witness

_LOST = ("suspect", "dead")


def healed_at(run_dir: Path, fault: Fault) -> float | None:
    """Unix time at which a fault was healed; None as long as it is not, or did not happen."""
    witness = Witness.read(run_dir).get(fault.name)
    if witness is None:
        return None
    after = [e for e in read_events(run_dir) if e.time >= witness.time - 0.5]
    return _HEALED_BY[fault.healed_by](after, witness)


def _worker(events: list[Event], _: Witness) -> float | None:
    """All workers that were lost serve again."""
    lost = set[str]()
    for event in events:
        if event.kind != "worker_state":
            continue
        if event.fields["state"] in _LOST:
            lost.add(event.subject)
        elif event.fields["state"] == "healthy" and event.subject in lost:
            lost.remove(event.subject)
            if not lost:
                return event.time
    return None


def _first(kind: str) -> Callable[[list[Event], Witness], float | None]:
    return lambda events, _: next((event.time for event in events if event.kind == kind), None)


def _at_once(_: list[Event], witness: Witness) -> float | None:
    return witness.time + float(witness.more.get("lasts_s", 0.0))


_HEALED_BY: dict[str, Callable[[list[Event], Witness], float | None]] = {
    "worker": _worker,
    "rank": _first("learner_healed"),
    "reward": _first("reward_worker_restarted"),
    "decoder": _first("decode_helper_restarted"),
    "itself": _at_once,
    "resume": _at_once,
}
