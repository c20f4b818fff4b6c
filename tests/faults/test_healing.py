from pathlib import Path
from typing import Any

import pytest

from tests.faults.fault import Fault, Witness
from tests.faults.healing import healed_at


def write_events(folder: Path, *lines: tuple[float, str, str, str]) -> None:
    rows = [
        f'{{"time": {t}, "attempt": 0, "kind": "{kind}", "subject": "{who}", "state": "{state}"}}\n'
        for t, kind, who, state in lines
    ]
    (folder / "events.jsonl").write_text("".join(rows))


def make_fault(**changes: Any) -> Fault:
    return Fault(name="f", role="engine", moment="serving", healed_by="worker", **changes)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    Witness(
        name="f",
        time=100.0,
        step=3,
        pids=[7],
        in_flight=1,
        publishing=False,
        training=False,
        below=[],
    ).write(tmp_path)
    return tmp_path


def test_a_worker_is_healed_once_all_that_were_lost_serve(run_dir: Path):
    write_events(
        run_dir,
        (90.0, "worker_state", "rollout-0", "healthy"),
        (101.0, "worker_state", "rollout-1", "suspect"),
        (101.0, "worker_state", "rollout-0", "dead"),
        (110.0, "worker_state", "rollout-0", "stale"),
        (120.0, "worker_state", "rollout-0", "healthy"),
    )
    assert healed_at(run_dir, make_fault()) is None
    write_events(
        run_dir,
        (101.0, "worker_state", "rollout-1", "dead"),
        (130.0, "worker_state", "rollout-1", "healthy"),
        (140.0, "worker_state", "rollout-1", "dead"),
    )
    assert healed_at(run_dir, make_fault()) == 130.0


def test_stale_is_not_healed_and_what_did_not_happen_neither(run_dir: Path, tmp_path: Path):
    write_events(
        run_dir,
        (101.0, "worker_state", "rollout-1", "dead"),
        (130.0, "worker_state", "rollout-1", "stale"),
    )
    assert healed_at(run_dir, make_fault()) is None
    other = tmp_path / "other"
    other.mkdir()
    assert healed_at(other, make_fault()) is None
