"""A run whose reward is a file of the user's, a function of TRL's, one that fails in several ways,
and T-GRPO's contrast; on the real engines, with the functions in a node's reward actor."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from learner.config import GrpoLossConfig
from learner.objective.credit import with_advantages
from learner.shared_prefix.rows import grpo_rows
from tests.end_to_end.runs import LABELS, metrics, run, write_recipe
from wire.archive.archive import read_groups
from wire.types import Failure, FailureKind, Purpose, Score, Trace, TraceGroup

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(580)]

MINE = """
import os, time

def length(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": len(solution_str) / 100, "characters": len(solution_str)}

def fragile(solution_str, ground_truth):
    way = len(solution_str) % 5
    if way == 0:
        raise KeyError("rubric")
    if way == 1:
        os._exit(3)
    return 0.5
"""
TERMS = """
[reward]
max_failure_frac = 1.0
placement = "spread"
[[reward.terms]]
function = "{folder}/mine.py:length"
[[reward.terms]]
function = "trl.rewards:think_format_reward"
completion_format = "messages"
timeout_s = 60.0
[[reward.terms]]
function = "{folder}/mine.py:fragile"
weight = 0.25
gated_by = "length"
[[reward.terms]]
function = "temporal_contrast"
"""
SHORT = ("coldstart.epochs=0", "grpo.num_steps=2", "rollout.max_response_length=8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    import ray

    folder = tmp_path_factory.mktemp("run")
    make_demo_model(folder / "model")
    (folder / "mine.py").write_text(MINE)
    manifest = make_demo_data(folder / "data", train=16, traces=8, val=1, cal=6, test=6)
    recipe = write_recipe(folder, folder / "model", manifest, LABELS)
    recipe.write_text(recipe.read_text() + TERMS.format(folder=folder))
    words = [word for setting in SHORT for word in ("--set", setting)]
    done = run(recipe, folder / "out", *words, address=ray.get_runtime_context().gcs_address)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "reward fragile failed on sample" in done.stdout + done.stderr
    return folder / "out"


@pytest.fixture(scope="module")
def groups(finished: Path) -> list[TraceGroup]:
    return [
        group
        for group in read_groups(finished / "archive", Purpose.TRAIN)
        if group.group_id.startswith("grpo/")
    ]


def traces(groups: list[TraceGroup]) -> Iterator[tuple[TraceGroup, Trace]]:
    for group in groups:
        for trace in group.traces:
            yield group, trace


def test_every_trace_has_all_parts_or_the_failure_of_the_plugin_that_failed(
    groups: list[TraceGroup],
) -> None:
    seen = set()
    for group, trace in traces(groups):
        size, outcome = len(trace.completion.text), trace.outcome
        seen.add(type(outcome))
        if isinstance(outcome, Failure):
            assert (outcome.kind, outcome.culprit) == (FailureKind.REWARD, "fragile")
            expected = {0: "KeyError('rubric')", 1: "exit code 3"}[size % 5]
            assert expected in outcome.reason
            continue
        assert size % 5 > 1
        parts = dict(outcome.parts)
        assert parts["length"] == pytest.approx(size / 100)
        assert parts["length/characters"] == size
        assert parts["think_format_reward"] in (0.0, 1.0)
        assert parts["temporal_contrast"] in (0.0, 0.3)
        assert 0 <= group.sample.extra["shuffled_accuracy"] <= 1
        fragile = 0.25 * 0.5 if size else 0.0
        others = parts["length"] + parts["think_format_reward"] + parts["temporal_contrast"]
        assert outcome.total == pytest.approx(others + fragile)
    assert seen == {Failure, Score}


def test_what_failed_is_masked_and_the_baseline_is_over_the_survivors(
    groups: list[TraceGroup],
) -> None:
    rows = with_advantages(grpo_rows(groups), GrpoLossConfig())
    trained = [response for row in rows for response in row.responses]
    assert len(trained) == sum(isinstance(t.outcome, Score) for _, t in traces(groups))
    assert len(trained) < sum(len(group.traces) for group in groups)
    for row in rows:
        assert sum(it.advantage for it in row.responses) == pytest.approx(0, abs=1e-5)


def test_metrics_tell_of_every_part_and_every_plugin(finished: Path) -> None:
    steps = metrics(finished, "grpo")
    assert len(steps) == 2
    for row in steps:
        for part in ("length", "think_format_reward", "fragile", "temporal_contrast"):
            assert math.isfinite(row[f"reward/{part}/mean"])
            assert math.isfinite(row[f"reward/{part}/std"])
        for part in ("length", "think_format_reward", "fragile"):
            p50, p99 = (row[f"reward/{part}/latency_p{share}_s"] for share in (50, 99))
            assert 0 < p50 <= p99
        assert any(name.endswith("/reward/length") for name in row)
    assert sum(row["reward/failed_frac"] for row in steps) > 0
    assert sum(row.get("reward/fragile/failed_frac", 0) for row in steps) == pytest.approx(
        sum(row["reward/failed_frac"] for row in steps)
    )
    assert sum(row["reward/fragile/num_started"] for row in steps) > 1, "one was replaced"
