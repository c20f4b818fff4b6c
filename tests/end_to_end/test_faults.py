"""Faults of a run on real engines, each with a witness that it happened and that it was healed.

The table is in tests/faults/table.py; ``python -m tests.faults.experiment NAME`` runs one row.
"""

import re
from collections.abc import Callable
from functools import cache

import pytest

from cluster.metrics.events import read_events
from tests.faults.experiment import Outcome, by_run, make_material, run_with
from tests.faults.fault import Fault, Witness
from tests.faults.finished_run import lines_of
from tests.faults.table import FAULTS
from tests.faults.victims import runs

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3000)]

_RUNS = by_run(FAULTS)
_MAX_LINES = 3


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    """``outcome_of("workers")``: what became of that run, which is run once."""
    folder = tmp_path_factory.mktemp("faults")
    material = make_material(folder / "material")

    @cache
    def outcome(run: str) -> Outcome:
        return run_with(_RUNS[run], material, folder / run.replace(" ", "-"))

    return outcome


@pytest.mark.parametrize("run", _RUNS)
def test_a_run_with_faults_ends_and_nothing_is_lost(outcome_of: Callable[[str], Outcome], run: str):
    outcome = outcome_of(run)
    assert outcome.exit_codes[-1] == 0, outcome.log[-3000:]
    assert not outcome.problems
    assert not outcome.left, "processes of the run go on"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_witnessed_and_healed(outcome_of: Callable[[str], Outcome], fault: Fault):
    outcome = outcome_of(fault.run or fault.name)
    witness = outcome.witness_of(fault)
    assert witness is not None, f"it did not happen: {outcome.log[-3000:]}"
    check_moment(fault, witness)
    check_hit(fault, witness)
    if fault.healed_by == "rank":
        deaths = [e for e in read_events(outcome.run_dir) if e.kind == "learner_died"]
        during = r"to save" if fault.moment == "in-save" else r"to (train_step|logprobs)"
        assert any(e.time > witness.time and re.search(during, e.fields["text"]) for e in deaths)
    if fault.healed_by == "resume":
        assert outcome.exit_codes[0] != 0
    seconds = outcome.recovered_s(fault)
    assert seconds is not None, f"nothing says that it was healed: {outcome.log[-3000:]}"
    print(f"{fault.name}: {seconds:.1f} s")  # noqa: T201
    assert seconds <= fault.limit_s
    if fault.line:
        count = len([f for f in _RUNS[fault.run or fault.name] if f.line == fault.line])
        assert count <= len(lines_of(outcome.log, fault.line)) <= count * _MAX_LINES


def check_hit(fault: Fault, witness: Witness) -> None:
    """Who was to be hit was there, and is gone if the fault was to end it."""
    if fault.act not in ("KILL", "STOP"):
        return
    assert witness.pids, "nobody was hit"
    if not fault.for_s:
        assert not any(runs(pid) for pid in witness.pids), "who was hit goes on"


def check_moment(fault: Fault, witness: Witness) -> None:
    """The fault happened when its row says."""
    match fault.moment:
        case "serving":
            assert witness.in_flight > 0
        case "idle":
            assert witness.in_flight == 0
        case "in-update":
            assert witness.training
        case "mid-update" | "forward" | "all-reduce" | "in-save" | "append":
            pass  # by the process that is in the middle of it (tests/faults/inside.py)
