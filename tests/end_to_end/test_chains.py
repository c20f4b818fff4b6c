"""The shipped recipes with a chain of their own, on the real engines, made tiny; one of them is
killed in its second GRPO and resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from calibrate.predictions import read_predictions
from cluster.cli import main
from cluster.config.recipe import read_recipe
from cluster.demo.clips import make_demo_data
from cluster.demo.events import events_in
from cluster.demo.make_model import make_demo_model
from rollout.rationales.rationale_file import read_rationales
from tests.end_to_end.runs import ROOT, TINY, metrics, run, summary
from wire.archive.archive import read_groups
from wire.types import Purpose

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return float(len(solution_str) % 3)
"""
"""A tiny model is always wrong; by its length an answer may earn the full reward all the same."""
OWN_WORDS = "grpo-without-coldstart"
"""Recipe that gets prompts of its own."""
PROMPTS = """
[prompts]
system = "a same and an opposite"
trace = "Of {labels}: which is {combination}? <think> then <answer>"
verdict = "{combination}: {reasoning} {conclusion}. One of {labels}."
"""
NUM_TEST, NUM_TRAIN, NUM_CAL = 6, 16, 6
SIZES = {
    "label-only": ("stages.labels.epochs=2",),
    "grpo-without-coldstart": ("stages.grpo.num_steps=1",),
    "rejection-then-grpo": ("stages.rft.num_groups=4", "stages.grpo.num_steps=1"),
    "two-grpo": ("stages.grpo.num_steps=1", "stages.grpo_cal.num_steps=3"),
    "demo-rbft": (
        *("stages.labels.epochs=2", "stages.stage1.epochs=1", "stages.rbft.epochs=1"),
        "stages.stage1.optim={learning_rate=1e-3, merger_learning_rate=1e-2}",
        *("learner.freeze_merger=false", "rationales.temperature=0.01"),
    ),
}
NUM_UPDATES = {
    "label-only": {"labels": 2},
    "grpo-without-coldstart": {"grpo": 1},
    "rejection-then-grpo": {"coldstart": 4, "grpo": 1},
    "two-grpo": {"coldstart": 4, "grpo": 1, "grpo_cal": 3},
    "demo-rbft": {"labels": 8, "stage1": 4, "rbft": 4},
}
"""Lines of metrics.jsonl: a step of GRPO has one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, clips, and each recipe over them."""
    folder = tmp_path_factory.mktemp("chains")
    make_demo_model(folder / "model")
    manifest = make_demo_data(
        folder / "data", train=NUM_TRAIN, traces=8, val=1, cal=NUM_CAL, test=NUM_TEST
    )
    (folder / "lengths.py").write_text(REWARD)
    for name in SIZES:
        head = f'extends = "{ROOT / "recipes" / name}.toml"\nmodel = "{folder / "model"}"\n'
        reward = f'[[reward.terms]]\nfunction = "{folder / "lengths.py"}:compute_score"\n'
        text = f'{head}[data]\nmanifest = "{manifest}"\n{TINY}{reward}'
        text += PROMPTS if name == OWN_WORDS else ""
        (folder / f"{name}.toml").write_text(text)
    return folder


def settings(name: str) -> list[str]:
    return [word for setting in SIZES[name] for word in ("--set", setting)]


def check_finished(folder: Path, name: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All stages left their results; status, report and compare read them."""
    chain = read_recipe(folder / f"{name}.toml", list(SIZES[name])).chain
    rows = {row["name"]: row for row in summary(out)["stages"]}
    assert tuple(rows) == chain.names
    assert all(row["num_failed"] == 0 for row in rows.values())
    for stage in chain:
        if stage.kind == "rationales":
            continue
        assert rows[stage.name]["num_samples"] == NUM_TEST
        assert len(read_predictions(out / f"predictions/{stage.name}.parquet")) == NUM_TEST
        model = out / "stages" / stage.name / "model/model.safetensors"
        assert model.exists() == (stage.leaves_policy or stage.kind == "calibrate")
    steps = {stage: len(metrics(out, stage)) for stage in NUM_UPDATES[name]}
    assert steps == NUM_UPDATES[name]
    page = (out / "report.html").read_text()
    assert all(f'"name":"{stage}"' in page for stage in chain.names)
    capsys.readouterr()
    assert main(["status", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "finished"
    assert [stage["name"] for stage in told["finished"]] == list(chain.names)
    assert main(["compare", str(out), "--json", str(out / "figures.json")]) == 0
    check_versions(out, chain)


def check_versions(out: Path, chain: Any) -> None:
    """Every stage wrote its traces under weights that it starts from or made itself."""
    for group in read_groups(out / "archive"):
        name = group.group_id.partition("/")[0]
        step = group.policy_version.step
        start, last = chain.last_step(chain.parent(name)), chain.last_step(name)
        assert step == start or chain.first_step(name) <= step <= last, group.group_id
        if group.purpose is Purpose.EVALUATION and chain[name].leaves_policy:
            assert step == last, group.group_id


@pytest.mark.parametrize("name", SIZES)
def test_a_recipe_with_a_chain_of_its_own_runs(
    folder: Path, ray_session: None, name: str, capsys: pytest.CaptureFixture[str]
):
    import ray

    address, out = ray.get_runtime_context().gcs_address, folder / name
    recipe = folder / f"{name}.toml"
    done = run(recipe, out, *settings(name), address=address, timeout_s=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_finished(folder, name, out, capsys)
    trained = {
        group.group_id.partition("/")[0]: set[str]()
        for group in read_groups(out / "archive", Purpose.TRAIN)
    }
    for group in read_groups(out / "archive", Purpose.TRAIN):
        trained[group.group_id.partition("/")[0]].add(group.sample.split)
    expected = {"grpo": {"train"}, "rft": {"train"}, "grpo_cal": {"cal"}}
    assert trained == {stage: expected[stage] for stage in trained}
    if name == OWN_WORDS:
        check_own_words(folder, out)
    if name == "demo-rbft":
        check_rationales(out)
    if name == "label-only":
        assert not list(read_groups(out / "archive")), "it writes no trace"
        blank = read_predictions(out / "predictions/labels_blank.parquet")
        assert len({prediction.probabilities for prediction in blank}) == 1, "all look the same"


def check_rationales(out: Path) -> None:
    """The base wrote of every train clip; stage II goes on from stage I, each part at its rate; and
    the answer costs what label-only SFT's costs."""
    written = read_rationales(out, "rationales")
    assert len(written) == NUM_TRAIN
    assert all(one.kept for one in written)
    assert all(events_in(one.text) for one in written), "what the demo's base model can say"
    groups = list(read_groups(out / "archive"))
    assert {group.purpose for group in groups} == {Purpose.RATIONALE}
    assert {group.policy_version.step for group in groups} == {0}
    done = {
        name: json.loads((out / f"stages/{name}/done.json").read_text())
        for name in ("labels", "stage1", "rbft")
    }
    assert done["rbft"]["started_from"]["weights_sha256"] == done["stage1"]["weights_sha256"]
    assert done["labels"]["started_from"] == done["stage1"]["started_from"]
    assert done["labels"]["cost"]["num_updates"] == sum(
        done[name]["cost"]["num_updates"] for name in ("stage1", "rbft")
    )
    costs = [{**done[name]["inference"], "seconds": None} for name in ("labels", "rbft")]
    assert costs[0] == costs[1]
    assert costs[0]["generated_tokens"] == 0
    for row in metrics(out, "stage1"):
        assert row["learning_rate/merger"] == pytest.approx(10 * row["learning_rate"])
    assert all(row["learning_rate/merger"] == row["learning_rate"] for row in metrics(out, "rbft"))


def check_own_words(folder: Path, out: Path) -> None:
    """Every prompt of the run is in the recipe's words, and says so."""
    from rollout.render import Renderer

    prompts = read_recipe(folder / f"{OWN_WORDS}.toml", []).prompt_set
    renderer = Renderer.load(folder / "model", 384)
    asked = [(g.sample, g.prompt) for g in read_groups(out / "archive") if g.prompt is not None]
    assert {prompt.version for _, prompt in asked} == {prompts.version("trace")}
    assert "1" not in prompts.versions.values()
    shown = [renderer.text(renderer.around_clip(prompt)) for _, prompt in asked]
    assert shown == [renderer.text_of(prompts.trace(sample)) for sample, _ in asked]
    assert all("a same and an opposite" in text for text in shown)
    assert len(set(shown)) > 1, "each clip's own column"
    for stage in ("grpo", "calibrated"):
        done = json.loads((out / f"stages/{stage}/done.json").read_text())
        assert done["prompt_versions"] == prompts.versions
    recipe = json.loads((out / "run.json").read_text())
    assert recipe["prompts"]["system"] == "a same and an opposite"


KILL = "driver:in-update:5"
"""Of GRPO's updates, two a step: in the first update of the second GRPO's second step."""


def test_a_chain_killed_in_its_second_grpo_goes_on_from_its_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    name, out = "two-grpo", folder / "killed"
    words = ["run", str(folder / f"{name}.toml"), "--run-dir", str(out), *settings(name)]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    program = [sys.executable, "-m", "tests.end_to_end.killed_run", KILL]
    killed: Any = subprocess.run(
        [*program, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=1200
    )
    assert "KILLED driver in-update" in killed.stderr, killed.stdout[-3000:] + killed.stderr[-3000:]
    assert main(["status", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["stage"]) == ("stopped", "grpo_cal")
    assert [stage["name"] for stage in told["finished"]] == ["base", "coldstart", "grpo"]
    assert told["checkpoint"]["stage"] == "grpo_cal"
    done = run(folder / f"{name}.toml", out, "--resume", *settings(name), timeout_s=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "already finished in" in done.stdout
    check_finished(folder, name, out, capsys)
    assert {row["attempt"] for row in metrics(out, "grpo")} == {0}
    steps = metrics(out, "grpo_cal")
    assert [(row["step"], row["attempt"]) for row in steps] == [(1, 0), (2, 1), (3, 1)]
    assert steps[1]["rollout/num_taken_up"] == 4, "the groups of the step that was killed"
