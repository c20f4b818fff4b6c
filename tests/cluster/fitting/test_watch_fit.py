from pathlib import Path
from typing import Any

import pytest

from cluster.fitting.fit import mark_of_others
from cluster.fitting.watch_fit import candidate_calibration
from cluster.fitting.watch_traces import candidate_traces
from tests.cluster.fitting.scripted_runs import ScriptedRun, recipe
from tests.cluster.fitting.test_watch_traces import order, train


@pytest.mark.parametrize(
    ("changes", "sources", "name"),
    [
        ({"calibrate": {"methods": ["head"]}}, ("policy", "head"), "calibrated"),
        (
            {"calibrate": {"candidates": ["policy", "vote", "verdict"]}},
            ("policy", "verdict"),
            "calibrated",
        ),
        ({"stages": [{"name": "g", "kind": "grpo"}]}, ("policy", "verdict"), "candidate"),
    ],
)
def test_a_candidate_is_fitted_as_the_runs_calibration_without_votes_and_held_out_clips(
    changes: dict[str, Any], sources: tuple[str, ...], name: str
):
    stage = candidate_calibration(recipe(**changes))
    assert stage.sources == sources
    assert (stage.name, stage.split, stage.holdout_frac) == (name, "train", 0)


def test_the_methods_of_a_candidate_may_be_chosen():
    stage = candidate_calibration(recipe(), ("head",))
    assert (stage.methods, stage.sources) == (("head",), ("policy", "head"))


def test_traces_of_earlier_versions_are_marked(tmp_path: Path):
    run = ScriptedRun(tmp_path / "run")
    train(run, 1, "a", "undo")
    train(run, 2, "b", "undo")
    labels, served = run.config.label_set, {run.version(2)}
    traces = candidate_traces(run.path, "grpo", order(run, 2, 2), labels)
    assert mark_of_others(traces, served) == (
        f"it learned from traces of versions {run.version(1)}, and another version is served"
    )
    alone = candidate_traces(run.path, "grpo", order(run, 2, 1), labels)
    assert mark_of_others(alone, served) == ""
    run.die()
