"""All control arms on the real engines, beside a small finished run."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from calibrate.predictions import read_predictions
from cluster.config.arm_names import ARMS
from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from tests.end_to_end.runs import LABELS, metrics, run, summary, write_recipe
from wire.archive.archive import read_groups

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]

# enough of a cold start that some of its traces earn the full reward
SETTINGS = [
    word
    for setting in ("coldstart.epochs=15", "rollout.max_response_length=40", "controls.num_votes=3")
    for word in ("--set", setting)
]
NUM_TEST, NUM_VAL, NUM_TRACES = 6, 3, 12
ON_VAL = ("coldstart_val", "coldstart_2x")
TRAINED = (
    *("coldstart_2x", "rejection", "grpo_more", "verdict_teacher", "verdict_train"),
    *("video_only_1x", "video_only_3x", "video_only_10x"),
)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> tuple[Path, dict[str, str]]:
    """The directory of a run with all arms, and what its stages' files were before them."""
    import ray

    folder = tmp_path_factory.mktemp("controls")
    make_demo_model(folder / "model")
    manifest = make_demo_data(
        folder / "data", train=16, traces=NUM_TRACES, val=NUM_VAL, cal=5, test=NUM_TEST
    )
    recipe = write_recipe(folder, folder / "model", manifest, LABELS)
    address = ray.get_runtime_context().gcs_address
    ray_and_time: Any = {"address": address, "timeout_s": 1100}
    done = run(recipe, folder / "out", *SETTINGS, **ray_and_time)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    before = hashes(folder / "out")
    done = run(recipe, folder / "out", *SETTINGS, **ray_and_time, verb="controls")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "out", before


def hashes(run_dir: Path) -> dict[str, str]:
    """Of what the stages left: results, models, predictions, archived traces."""
    files = [
        p for d in ("stages", "predictions", "archive/traces") for p in (run_dir / d).rglob("*")
    ]
    return {
        str(file.relative_to(run_dir)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file()
    }


def result(run_dir: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "stages" / name / "done.json").read_text())
    return found


def test_every_arm_leaves_a_result_and_nothing_of_the_stages_changes(finished: Any):
    run_dir, before = finished
    after = hashes(run_dir)
    assert {name: after.get(name) for name in before} == before
    rows = {row["name"]: row for row in summary(run_dir)["controls"]}
    assert list(rows) == list(ARMS)
    for arm, row in rows.items():
        assert row["cost"].keys() == {"num_rollouts", "num_updates", "num_generated_tokens"}
        assert row["seconds"] > 0
        if arm != "trace_accuracy":
            assert 0 <= row["accuracy_ci"][0] <= row["accuracy"] <= row["accuracy_ci"][1] <= 1
            predictions = read_predictions(run_dir / f"predictions/{arm}.parquet")
            assert len(predictions) == (NUM_VAL if arm in ON_VAL else NUM_TEST)
    assert not list((run_dir / "checkpoints").iterdir())
    assert [stage["name"] for stage in summary(run_dir)["stages"]] == [
        *("base", "coldstart", "grpo", "calibrated")
    ]


def test_the_arms_spend_what_they_say(finished: Any):
    run_dir, _ = finished
    cost = {arm: result(run_dir, arm)["cost"] for arm in ARMS}
    num_grpo = 3 * 4 * 8
    assert cost["rejection"]["num_rollouts"] == cost["grpo_more"]["num_rollouts"] == num_grpo
    assert cost["vote"]["num_rollouts"] == 3 * NUM_TEST
    assert cost["grpo_more"]["num_updates"] == 3 * 2
    verdict = -(-5 * 2 // 8)  # 5 clips, 2 traces each, batches of 8, one epoch
    assert [cost[f"video_only_{k}x"]["num_updates"] for k in (1, 3, 10)] == [
        *(verdict, 3 * verdict, 10 * verdict)
    ]
    assert cost["verdict_teacher"]["num_updates"] == verdict
    assert cost["coldstart_2x"]["num_updates"] == 30 * NUM_TRACES // 4
    assert len(metrics(run_dir, "grpo")) == 3, "the stage's own steps"
    for arm in TRAINED:
        assert len(metrics(run_dir, arm)) == (3 if arm == "grpo_more" else cost[arm]["num_updates"])


def test_each_arm_wrote_its_traces_under_the_weights_it_names(finished: Any):
    run_dir, _ = finished
    written: dict[str, set[tuple[int, int]]] = {}
    for group in read_groups(run_dir / "archive"):
        name = group.group_id.partition("/")[0] + f"/{group.purpose}"
        version = group.policy_version
        written.setdefault(name, set()).add((version.attempt, version.step))
    assert written["coldstart_val/evaluation"] == written["rejection/train"] == {(1, 1)}
    of_grpo = [name for name in written if name.startswith(("vote", "blank", "verdict_", "trace_"))]
    assert len(of_grpo) == 6
    for name in of_grpo:
        assert written[name] == {(1, 4)}
    own = [
        written[name]
        for name in (
            *("rejection/evaluation", "coldstart_2x/evaluation"),
            *("grpo_more/train", "grpo_more/evaluation"),
        )
    ]
    versions = [version for some in own for version in some]
    assert len(set(versions)) == len(versions), "each version is of one arm's one moment"
    assert all(step > 4 for _, step in versions)


def test_the_policys_probabilities_are_of_its_own_answers(finished: Any):
    run_dir, _ = finished
    plain = read_predictions(run_dir / "predictions/grpo.parquet")
    found = read_predictions(run_dir / "predictions/policy_probability.parquet")
    assert [(p.sample_id, p.predicted, p.trace) for p in found] == [
        (p.sample_id, p.predicted, p.trace) for p in plain
    ]
    parsed = [p for p in found if p.predicted is not None]
    assert parsed
    for prediction, before in zip(found, plain, strict=True):
        if prediction.predicted is not None:
            assert prediction.probabilities is not None
            assert sum(prediction.probabilities) == pytest.approx(1)
            # of all words, as the engine sampled it, against of the labels alone
            assert prediction.confidence >= before.confidence - 1e-4
            assert prediction.confidence == max(prediction.probabilities)  # near-greedy


def test_rejection_keeps_texts_once_and_only_with_the_full_reward(finished: Any):
    run_dir, _ = finished
    groups = [g for g in read_groups(run_dir / "archive") if g.group_id.startswith("rejection/0")]
    full = {
        (group.sample.id, trace.completion.text)
        for group in groups
        for trace in group.traces
        if trace.reward == 2
    }
    found = result(run_dir, "rejection")
    assert found["num_kept"] == len(full) > 0
    assert found["num_clips_kept"] == len({sample_id for sample_id, _ in full})


def test_finished_arms_are_not_run_again(finished: Any, tmp_path: Path):
    run_dir, _ = finished
    before = hashes(run_dir)
    done = run(run_dir.parent / "recipe.toml", run_dir, *SETTINGS, verb="controls")
    assert done.returncode == 0
    assert "already finished" in done.stdout
    assert hashes(run_dir) == before
