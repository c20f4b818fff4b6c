"""The table of a simulated run."""

import pytest

from cluster.simulation.faults import FaultRates
from cluster.simulation.run import simulate, what_would_help
from cluster.simulation.table import print_simulation
from tests.cluster.simulation.scenarios import scenario


def test_it_says_speed_idle_shares_staleness_losses_and_the_limit(
    capsys: pytest.CaptureFixture[str],
):
    faulty = scenario(workers=2, faults=FaultRates(worker_mtbf_s=40.0, hang_frac=0.0))
    run = simulate(faulty)
    print_simulation("demo", run, what_would_help(faulty), ["a [note] on what was assumed"])
    out = capsys.readouterr().out
    for text in (
        "demo: simulated (nothing was started)",
        "steps per hour",
        "idle workers",
        "0: 100%",
        "engine died",
        "effective training time",
        "updates twice as fast",
        "limit: ",
        "note: a [note] on what was assumed",
    ):
        assert text in out
