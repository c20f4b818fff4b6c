"""All stages on the real engines, as a user runs them."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calibrate.classifier import load_classifier
from calibrate.predictions import read_predictions
from cluster.cli import main
from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from cluster.metrics.catalogue import describe
from cluster.metrics.events import read_events
from cluster.metrics.step_timelines import timeline_files
from cluster.metrics.work_clock import LIMITS
from cluster.pool.worker_view import read_fleet
from tests.end_to_end.runs import (
    LABELS,
    ROOT,
    command,
    metrics,
    run,
    summary,
    validations,
    write_recipe,
)
from wire.archive.archive import read_groups, read_table
from wire.types import Purpose, TraceGroup

pytestmark = [pytest.mark.ray, pytest.mark.timeout(580)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The directory of one small run of all stages, in the Ray that all tests share."""
    import ray

    folder = tmp_path_factory.mktemp("run")
    make_demo_model(folder / "model")
    manifest = make_demo_data(folder / "data", train=16, traces=8, val=5, cal=10, test=6)
    recipe = write_recipe(folder, folder / "model", manifest, LABELS)
    address = ray.get_runtime_context().gcs_address
    settings = (
        "validate.every=2",
        "deterministic=true",
        "calibrate.holdout_frac=0.5",
        "calibrate.epochs=2",
    )
    changes = [word for one in settings for word in ("--set", one)]
    done = run(recipe, folder / "out", *changes, address=address)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "out"


def test_the_summary_has_every_stage_and_baseline(finished: Path):
    found = summary(finished)
    assert [s["name"] for s in found["stages"]] == ["base", "coldstart", "grpo", "calibrated"]
    for stage in found["stages"]:
        low, high = stage["accuracy_ci"]
        assert 0 <= low <= stage["accuracy"] <= high <= 1
        assert {"macro_f1", "balanced_accuracy", "ece", "seconds"} <= stage.keys()
    assert found["baselines"]["majority"] is not None
    assert found["head"]["num_samples"] == 6
    assert found["peak_memory_gb"] > 0
    assert found["versions"]["torch"]


@pytest.mark.slow
def test_its_classifier_answers_its_test_clips_as_it_was_measured(finished: Path, tmp_path: Path):
    rows, recipe = tmp_path / "rows.jsonl", json.loads((finished / "run.json").read_text())
    manifest = tmp_path / "test.jsonl"
    data = Path(recipe["data"]["manifest"])
    clips = [json.loads(line) for line in data.read_text().splitlines()]
    with manifest.open("w") as file:
        for clip in clips:
            if clip["split"] == "test":
                clip["video"] = str(data.parent / clip["video"])
                file.write(json.dumps(clip) + "\n")
    words = ["classify", str(finished), str(manifest), "--out", str(rows)]
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", *words, "--no-monitor"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answered = {row["id"]: row for row in map(json.loads, rows.read_text().splitlines())}
    measured = read_predictions(finished / "predictions/classifier.parquet")
    assert answered.keys() == {one.sample_id for one in measured}
    for one in measured:
        row = answered[one.sample_id]
        assert row["truth"] == one.label
        assert one.probabilities is not None
        gaps = [abs(a - b) for a, b in zip(row["probabilities"].values(), one.probabilities,
                                           strict=True)]  # fmt: skip
        assert max(gaps) < 1e-4, one.sample_id
        assert row["label"] == one.predicted


def test_its_archive_scored_again_under_its_own_recipe_has_the_same_scores(finished: Path):
    to = finished.parent / "change.json"
    recipe = finished.parent / "recipe.toml"
    assert main(["rescore", str(finished), "--recipe", str(recipe), "--json", str(to)]) == 0
    change = json.loads(to.read_text())
    with_traces = [group for group in read_groups(finished / "archive") if group.traces]
    assert change["num_groups"] == len(with_traces) > 0
    assert change["num_flipped"] == change["num_failed_now"] == 0
    for row in change["means"]:
        assert (row["now"], row["num_now"]) == (row["before"], row["num_before"])


def test_every_step_is_on_policy_and_in_parity(finished: Path):
    steps = metrics(finished, "grpo")
    assert [row["step"] for row in steps] == [1, 2, 3]
    for row in steps:
        assert row["parity/probe_max_logprob_diff"] < 1e-5
        assert row["parity/max_logprob_diff"] < 1e-4  # of all tokens, unlikely ones included
        assert row["rollout_is/mean"] == pytest.approx(1.0, abs=1e-4)
        assert row["staleness/max"] == 0
        assert row["timing_s/step"] > 0
        assert row["reward/failed_frac"] == 0


def test_every_training_is_validated_on_the_val_clips_from_before_its_first_step(finished: Path):
    versions: dict[str, list[int]] = {}
    for group in read_groups(finished / "archive", Purpose.VALIDATION):
        stage, _, step, _ = group.group_id.split("/")
        assert group.sample.split == "val"
        versions.setdefault(f"{stage} {int(step)}", []).append(group.policy_version.step)
    assert all(len(set(steps)) == 1 and len(steps) == 5 for steps in versions.values())
    served = {name: steps[0] for name, steps in versions.items()}
    assert {name: served[name] for name in served if name.startswith("grpo")} == {
        **{"grpo 0": 1, "grpo 2": 3, "grpo 3": 4}
    }
    calibrated = [g for g in read_groups(finished / "archive") if _owner(g) == "calibrated"]
    assert {g.policy_version.step for g in calibrated} == {4}, "the policy's own traces"
    answers = [g for g in calibrated if g.purpose is Purpose.EVALUATION]
    assert len([g for g in answers if g.sample.split == "val"]) == 5, "for validation, too"
    for stage, last in (("coldstart", 4), ("grpo", 3), ("calibrated", 4)):
        found = validations(finished, stage)
        assert list(found) == sorted({0, 2, last})
        for row in found.values():
            assert 0 <= row["val/accuracy"] <= 1
            assert row["val/num_clips"] == 5
        result = json.loads((finished / f"stages/{stage}/done.json").read_text())
        assert result["validation"]["num_validations"] == len(found)
    assert len({row["val/nll"] for row in validations(finished, "calibrated").values()}) > 1


def test_every_figure_is_documented_and_says_what_the_caches_spared(finished: Path):
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    known = {"stage", "step", "attempt", "time"}
    unknown = [
        (row["stage"], name)
        for row in rows
        for name in row.keys() - known
        if describe(name, row["stage"]) is None
    ]
    assert not unknown
    last = metrics(finished, "grpo")[-1]
    assert 0 < last["cache/prefix_hit_rate"] < 1
    assert 0 < last["cache/clip_hit_rate"] <= 1
    assert sum(row.get("video/decoded_by_decord", 0) for row in rows) > 0
    assert metrics(finished, "coldstart")[-1]["cache/embedding_hit_rate"] == 1  # second epoch
    assert list(Path(os.environ["DEEPINTUIT_CACHE_DIR"], "embeddings").rglob("*.safetensors"))
    assert last["timing_s/gen"] > 0
    phases = sum(value for name, value in last.items() if name.startswith("timing_s/"))
    assert phases <= 2 * last["timing_s/step"] + 0.05, "the phases are parts of the step"
    assert [row["stage"] for row in rows if "grpo/accuracy" in row] == ["eval"]
    assert json.loads((finished / "status.json").read_text())["state"] == "finished"


def test_each_step_says_what_limited_it_and_has_a_timeline_of_workers_and_ranks(finished: Path):
    rows = metrics(finished, "grpo")
    for row in rows:
        assert sum(row[f"limit/{name}"] for name in LIMITS) == pytest.approx(1)
        assert row["limit/generation"] > 0
        assert row["limit/learner"] > 0
        assert 0 < row["trainer/idle_ratio"] < 1
        assert 0 < row["rollouter/idle_ratio"] < 1
        assert (row["fleet/serving"], row["fleet/lost_s"]) == (1, 0)
        assert 0.9 < row["effective_training_time_ratio"] <= 1
    files = timeline_files(finished, "grpo")
    assert len(files) == len(rows)
    events = json.loads(files[-1].read_bytes())["traceEvents"]
    tracks = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    spans = {(tracks[e["pid"]], e["name"]) for e in events if e["ph"] == "X"}
    assert {
        ("driver", "gen"),
        ("driver", "update_actor"),
        ("driver", "update_weights"),
        ("rank-0", "train_step"),
        ("rank-0", "publish"),
        ("rollout-0", "answer"),
        ("reward", "score"),
        ("archive", "append"),
    } <= spans
    states = [event.fields["state"] for event in read_events(finished) if event.subject]
    assert states == ["restarting", "stale", "healthy"]
    fleet = read_fleet(finished)
    assert fleet is not None
    assert [worker.name for worker in fleet.workers] == ["rollout-0"]


def test_the_archive_holds_every_trace_with_its_version(finished: Path):
    archive = finished / "archive"
    trained = list(read_groups(archive, Purpose.TRAIN))
    assert len(trained) == 3 * 4
    assert all(len(group.traces) == 8 for group in trained)
    by_place = sorted(trained, key=lambda group: group.group_id)
    assert [group.policy_version.step for group in by_place[:12]] == [1] * 4 + [2] * 4 + [3] * 4
    calibration = list(read_groups(archive, Purpose.CALIBRATION))
    assert [len(group.traces) for group in calibration] == [2] * 21
    learned = [group for group in calibration if group.sample.split == "cal"]
    assert len(learned) == 5 + 5, "to learn from, and the votes of those held out"
    held_out = [g for g in read_groups(archive, Purpose.EVALUATION) if g.sample.split == "cal"]
    assert [len(group.traces) for group in held_out] == [1] * 5
    assert {str(group.policy_version) for group in calibration} == {"0.4"}
    table = read_table(archive, ["prompt_token_ids", "token_ids", "logprobs", "clip_key"])
    assert table.num_rows > 3 * 4 * 8
    for group in trained:
        assert group.prompt is not None
        video = Path(group.sample.video).read_bytes()
        assert group.prompt.video_hash == hashlib.sha256(video).hexdigest()
        assert len(group.prompt.frame_indices) >= 2
        assert list(group.prompt.frame_indices) == sorted(group.prompt.frame_indices)


def test_the_verdicts_probabilities_are_over_the_labels_and_sum_to_one(finished: Path):
    found = read_predictions(finished / "predictions/calibrated.parquet")
    assert len(found) == 6
    for prediction in found:
        assert prediction.probabilities is not None
        assert len(prediction.probabilities) == len(LABELS)
        assert sum(prediction.probabilities) == pytest.approx(1.0)
        assert prediction.trace


def test_models_and_event_files_are_left(finished: Path):
    for stage in ("coldstart", "grpo", "calibrated"):
        assert (finished / "stages" / stage / "model/model.safetensors").exists()
    assert (finished / "stages/calibrated/head").is_dir()
    assert list((finished / "tensorboard").glob("events.*"))
    assert (finished / "run.json").exists()
    # the last stays, for a resume that makes the stage longer
    assert (finished / "checkpoints/grpo/step-000003/manifest.json").exists()


def test_the_learner_changed_the_language_model_and_not_the_frozen_tower(finished: Path):
    from safetensors.torch import load_file

    first = load_file(finished / "stages/coldstart/model/model.safetensors")
    last = load_file(finished / "stages/grpo/model/model.safetensors")
    changed = {name for name in first if not first[name].equal(last[name])}
    assert changed
    assert not [name for name in changed if "visual" in name]


def test_a_fit_of_its_archive_is_the_classifier_that_it_published_to_the_bit(
    finished: Path, ray_session: None
):
    """Verdict, calibration and description: the candidates' figures and the sets hold the policy's,
    the verdict's and the head's scores, so that those are equal, too."""
    import ray

    address, out = ray.get_runtime_context().gcs_address, finished.parent / "fitted"
    words = command("fit", finished, out)
    around = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(words, cwd=ROOT, env=around, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    published = load_classifier(finished)
    fitted = load_classifier(out)
    assert fitted.version == published.version, "description, and the bytes of all other files"
    assert fitted.files == published.files
    assert {"calibration.json", "policy/model.safetensors"} <= fitted.files.keys()
    assert fitted.provenance.archive.versions == {"0.4": 5}
    assert not list(out.parent.glob("fitted.*"))


@pytest.mark.slow
def test_a_fit_job_whose_service_is_killed_goes_on_to_the_classifier_of_a_fit_that_was_not(
    finished: Path, ray_session: None, tmp_path: Path
):
    import ray

    address = ray.get_runtime_context().gcs_address
    around = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, str(ROOT / "tests/end_to_end/fit_host.py"), tmp_path, finished]
    host, end = subprocess.Popen(words, cwd=ROOT, env=around), time.monotonic() + 200
    while not list(tmp_path.glob("state/fits/*/out.work/checkpoints/calibrated/step-*")):
        assert host.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    host.kill()
    host.wait()
    assert not list(tmp_path.glob("state/fits/*/out")), "killed while it trained"
    done = subprocess.run(
        words, cwd=ROOT, env=around, capture_output=True, text=True, timeout=300, check=False
    )
    (log,) = [file.read_text() for file in tmp_path.glob("state/fits/*/log.txt")]
    assert done.returncode == 0, done.stderr[-2000:] + log[-2000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["state"], facts["detail"], facts["starts"]) == ("succeeded", None, 2), log
    assert "calibrated: going on from checkpoint step-000002" in log
    assert facts["hashes"] == [load_classifier(finished).version], "to the bit"
    assert facts["aliases"] == {"challenger": 1}
    assert not list(tmp_path.glob("state/fits/*/out*"))


def _owner(group: TraceGroup) -> str:
    return group.group_id.partition("/")[0]
