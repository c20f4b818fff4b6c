"""In a real run no trained trace is older than the recipe allows, by the archive's own versions."""

from pathlib import Path

import pytest

from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from tests.end_to_end.runs import LABELS, metrics, run, write_recipe
from tests.end_to_end.staleness import trained_traces

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(580)]

STEPS = 4
STAGES = """
[[stages]]
name = "one"
kind = "grpo"
max_staleness = 1
[[stages]]
name = "two"
kind = "grpo"
max_staleness = 2
"""
SETTINGS = {
    "rollout.max_response_length": "40",
    "rollout.group_size": "4",
    "grpo.num_steps": str(STEPS),
    "grpo.groups_per_update": "4",
    "grpo.save_every": str(STEPS),
}


@pytest.mark.parametrize("in_flight", ["keep", "restart"])
def test_no_trained_trace_is_older_than_the_bound_and_the_bound_is_used(
    tmp_path: Path, ray_session: None, in_flight: str
) -> None:
    import ray

    make_demo_model(tmp_path / "model")
    manifest = make_demo_data(tmp_path / "data", train=40, traces=1, val=1, cal=1, test=2)
    recipe = write_recipe(tmp_path, tmp_path / "model", manifest, LABELS)
    recipe.write_text(recipe.read_text() + STAGES)
    settings = SETTINGS | {"rollout.in_flight": in_flight}
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    address = ray.get_runtime_context().gcs_address
    done = run(recipe, tmp_path / "out", *words, address=address)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for stage, bound in (("one", 1), ("two", 2)):
        traces = trained_traces(tmp_path / "out", stage)
        assert len(traces) == STEPS * 4 * 4
        assert [one.place for one in traces[::4]] == list(range(STEPS * 4)), "each place once"
        assert min(one.lag for one in traces) >= 0
        steps = metrics(tmp_path / "out", stage)
        for row in steps:
            lags = [one.lag for one in traces if one.step == row["step"]]
            assert row["staleness/max"] == max(lags), "the metric is the archive's"
            assert row["off_policy/num_dropped_traces"] == 0
        assert max(one.lag for one in traces) == bound, "rollout ran ahead as far as it may"
        if in_flight == "restart":
            assert all(one.num_versions == 1 for one in traces)
