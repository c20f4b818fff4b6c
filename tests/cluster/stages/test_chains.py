"""A whole chain of stages, one after another and resumed; engines and learner are fakes."""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from calibrate.predictions import read_predictions
from cluster.cli import main
from cluster.config.recipe import RunConfig, read_recipe
from cluster.inputs.policies import read_policies
from cluster.run import run_stages
from cluster.run_dir import RunDir
from cluster.run_files import prediction_files
from cluster.stages.policy_versions import model_before
from learner.config import LoraConfig
from learner.shared_prefix.rows import Row
from tests.cluster.session_fakes import make_config
from tests.cluster.stages.chain_fakes import (
    BASE_WEIGHTS,
    CALIBRATE,
    CHAIN,
    Attempt,
    ChainLearner,
    groups_of,
    names_of_versions,
    result,
    run_chain,
)
from wire.config import apply_override
from wire.errors import ConfigError
from wire.types import Purpose, Split, stable_seed

NAMES = tuple(stage["name"] for stage in CHAIN)
LABEL_UPDATES = 3 * 4  # epochs, batches of 2 of 8 clips
GROUPS_PER_STEP, GROUP_SIZE, NUM_STEPS = 2, 2, 3


def recipe(**changes: Any) -> RunConfig:
    return make_config(**{"stages": CHAIN, "calibrate": CALIBRATE} | changes)


def open_new(path: Path, config: RunConfig) -> RunDir:
    return RunDir.open(path / "run", config, resume=False, overwrite=False)


async def whole(path: Path) -> tuple[RunDir, Attempt]:
    config = recipe()
    run_dir = open_new(path, config)
    return run_dir, await run_chain(run_dir, config)


class VideoLearner(ChainLearner):
    """Keeps the rows whose hidden states a head reads."""

    read: ClassVar[list[Row]] = []

    async def feature_blocks(self, rows: Iterable[Row]) -> AsyncIterator[np.ndarray]:
        kept = list(rows)
        VideoLearner.read += kept
        async for block in super().feature_blocks(kept):
            yield block


# --- from start to end


async def test_every_stage_leaves_its_result(tmp_path: Path):
    run_dir, attempt = await whole(tmp_path)
    assert [row["name"] for row in attempt.summary["stages"]] == list(NAMES)
    assert attempt.summary["head"]["name"] == "verdict_head"
    for name in NAMES:
        left = result(run_dir, name)
        assert (left["seconds"] >= 0, left["peak_memory_gb"], left["num_failed"]) == (True, 0.0, 0)
        assert left["prompt_versions"] == dict(recipe().prompt_set.versions)
        assert len(read_predictions(run_dir.predictions(name))) == (2 if name == "asked" else 4)
        has_model = name not in ("unseen", "asked")
        assert (run_dir.model(name) / "weights").exists() == has_model
        kept = [folder.name for folder in run_dir.checkpoints(name).glob("step-*")]
        last = [f"step-{left['last_step']:06d}"] if has_model else []
        assert kept == last or (name in ("g1", "g2") and {*last} < {*kept}), "and a better one"
    assert result(run_dir, "labels")["num_labels"] == 8
    own = result(run_dir, "own")
    assert own["cost"]["num_rollouts"] == NUM_STEPS * GROUPS_PER_STEP * GROUP_SIZE
    assert 0 < own["num_kept"] <= own["cost"]["num_rollouts"]


async def test_a_head_over_the_video_alone_reads_each_clip_once_and_no_trace(tmp_path: Path):
    stages = [CHAIN[0], {"name": "video", "kind": "calibrate", "head_features": "video"}]
    config = recipe(stages=stages, calibrate={**CALIBRATE, "methods": ["head"]})
    VideoLearner.read.clear()
    await run_chain(open_new(tmp_path, config), config, make_learner=VideoLearner)
    for row in VideoLearner.read:
        shown = [*row.prompt.token_ids, *row.responses[0].token_ids]
        assert shown == [1, stable_seed(row.video, "label"), 2], "the label prompt, and no trace"
    per_part = Counter(row.video for row in VideoLearner.read)
    assert set(per_part.values()) == {1}, "once, however many traces it has"


async def test_a_verdict_is_lora_while_all_else_trains_whole(tmp_path: Path):
    stages = [CHAIN[0], {"name": "verdict", "kind": "calibrate"}]
    config = recipe(stages=stages, calibrate={**CALIBRATE, "lora": {"rank": 4}})
    attempt = await run_chain(open_new(tmp_path, config), config)
    assert set(attempt.learner.loras) == {None, LoraConfig(rank=4)}
    assert attempt.learner.loras.count(LoraConfig(rank=4)) == 1


async def test_every_stage_starts_from_the_weights_it_names(tmp_path: Path):
    run_dir, attempt = await whole(tmp_path)
    weights = {
        name: (run_dir.model(name) / "weights").read_text()
        for name in ("labels", "own", "g1", "g2", "verdict")
    }
    own_updates = result(run_dir, "own")["cost"]["num_updates"]
    for name, start, updates in (
        ("labels", BASE_WEIGHTS, LABEL_UPDATES),
        ("own", BASE_WEIGHTS, own_updates),
        ("g1", weights["own"], NUM_STEPS),
        ("g2", weights["g1"], NUM_STEPS),
    ):
        assert weights[name].startswith(f"{start}+")
        assert weights[name].removeprefix(start).count("+") == updates
    assert weights["verdict"].startswith(weights["g1"] + "+")
    wrote = dict.fromkeys(video for _, video in attempt.engines.wrote)
    assert any(video.endswith("#view=blank") for video in wrote)
    for stage, weights_of in (("own", BASE_WEIGHTS), ("verdict", weights["g1"])):
        named = names_of_versions(attempt)
        versions = {
            group.policy_version
            for group in groups_of(run_dir, stage)
            if group.purpose is not Purpose.EVALUATION or stage == "verdict"
        }
        assert [named[version] for version in versions] == [{weights_of}]
    (unseen,) = {group.policy_version for group in groups_of(run_dir, "unseen")}
    assert names_of_versions(attempt)[unseen] == {weights["g2"]}
    assert not groups_of(run_dir, "labels")
    assert not groups_of(run_dir, "asked"), "labels are asked of the learner"


async def test_each_version_names_one_set_of_weights(tmp_path: Path):
    _, attempt = await whole(tmp_path)
    named = names_of_versions(attempt)
    assert all(len(weights) == 1 for weights in named.values())
    chain = recipe().chain
    assert {version.step for version in named} <= set(range(chain.last_version_step + 1))


async def test_a_stage_learns_from_its_own_clips(tmp_path: Path):
    run_dir, _ = await whole(tmp_path)
    for name, split in (("own", Split.TRAIN), ("g1", Split.TRAIN), ("g2", Split.CAL)):
        groups = [g for g in groups_of(run_dir, name) if g.purpose is Purpose.TRAIN]
        assert len(groups) == NUM_STEPS * GROUPS_PER_STEP
        assert {group.sample.split for group in groups} == {split}


async def test_commands_that_look_at_the_run_show_every_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run_dir, _ = await whole(tmp_path)
    run_dir.close()
    noted = {note.stage for note in read_policies(run_dir.archive)}
    assert noted == {s.name for s in recipe().chain if s.leaves_policy}, "whose weights wrote what"
    assert list(prediction_files(run_dir.path))[: len(NAMES)] == list(NAMES)
    capsys.readouterr()
    assert main(["status", str(run_dir.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], [stage["name"] for stage in told["finished"]]) == (
        *("finished", list(NAMES)),
    )
    assert main(["report", str(run_dir.path)]) == 0
    page = (run_dir.path / "report.html").read_text()
    shown = re.findall(r'"name":"(\w+)","text":"([^"]*)","is_stage":(\w+),"split":"(\w+)"', page)
    chain, on_val = recipe().chain, {"asked": "val"}
    assert shown[: len(NAMES)] == [
        (stage.name, stage.text, "true", on_val.get(stage.name, "test")) for stage in chain
    ]
    assert [row[:3] for row in shown[len(NAMES) :]] == [
        ("verdict_head", "a linear head on the same traces", "false"),
        ("verdict_classifier", "the published classifier, calibrated", "false"),
    ]
    figures = tmp_path / "figures.json"
    on_test = [word for name in NAMES[:-1] for word in ("--stage", name)]
    assert main(["compare", str(run_dir.path), *on_test, "--json", str(figures)]) == 0
    arms = [arm["name"] for arm in json.loads(figures.read_text())["arms"]]
    assert arms == list(NAMES[:-1])


# --- killed and resumed


async def test_own_traces_of_a_killed_attempt_are_taken_up(tmp_path: Path):
    config = recipe()
    run_dir = open_new(tmp_path, config)
    killed = await run_chain(run_dir, config, updates=LABEL_UPDATES + 1)
    written = groups_of(run_dir, "own")
    assert (len(written), run_dir.result("own")) == (NUM_STEPS * GROUPS_PER_STEP, None)
    resumed = await run_chain(run_dir, config)
    own = groups_of(run_dir, "own")
    assert {g.policy_version.attempt for g in own if g.purpose is Purpose.TRAIN} == {0}
    again = [group for group in own if group.policy_version.attempt == 1]
    assert len(again) == 4, "it is measured, and nothing is written to learn from"
    cost = result(run_dir, "own")["cost"]
    assert cost["num_rollouts"] == len(written) * GROUP_SIZE, "what it learned from"
    assert resumed.learner.steps[0][1] == killed.learner.steps[-1][1]
    assert [row["name"] for row in resumed.summary["stages"]] == list(NAMES)


async def test_a_second_grpo_goes_on_from_its_checkpoint(tmp_path: Path):
    config = recipe()
    run_dir, undisturbed = await whole(tmp_path / "other")
    before_g2 = next(
        place
        for place, (weights, _) in enumerate(undisturbed.learner.steps)
        if weights == (run_dir.model("g1") / "weights").read_text()
    )
    expected = (run_dir.model("g2") / "weights").read_text()
    run_dir = open_new(tmp_path, config)
    killed = await run_chain(run_dir, config, updates=before_g2 + 2)
    assert run_dir.result("g1") is not None
    assert run_dir.result("g2") is None
    resumed = await run_chain(run_dir, config)
    steps = [step for stage, step in killed.metrics.lines if stage == "g2"]
    assert steps == [1, 2]
    lines = zip(resumed.metrics.lines, resumed.metrics.values, strict=True)
    steps_again = {step: values for (stage, step), values in lines if stage == "g2"}
    assert list(steps_again) == [3]
    assert steps_again[3]["rollout/num_taken_up"] == GROUPS_PER_STEP
    assert (run_dir.model("g2") / "weights").read_text() == expected
    named = names_of_versions(killed, resumed)
    assert all(len(weights) == 1 for weights in named.values())
    by_step: dict[int, set[str]] = {}
    for version, weights in named.items():
        by_step.setdefault(version.step, set()).update(weights)
    assert all(len(weights) == 1 for weights in by_step.values()), "a step of either attempt"
    assert [row["name"] for row in resumed.summary["stages"]] == list(NAMES)


# --- settings of a resumed run


def changed(key: str, value: Any) -> RunConfig:
    stages = [dict(stage) for stage in CHAIN]
    next(stage for stage in stages if stage["name"] == "g2")[key] = value
    return recipe(stages=stages)


def start_and_leave(path: Path) -> Path:
    run_dir = open_new(path, recipe())
    run_dir.archive.mkdir()
    run_dir.close()
    return run_dir.path


def resume(path: Path, config: RunConfig) -> list[str]:
    """Names of the settings that differ."""
    run_dir = RunDir.open(path, config, resume=True, overwrite=False)
    run_dir.close()
    return [change.name for change in run_dir.changes]


def test_a_resumed_chain_is_the_same_chain(tmp_path: Path):
    assert resume(start_and_leave(tmp_path), recipe()) == []


@pytest.mark.parametrize(
    ("key", "value"), [("save_every", 7), ("keep_last", 3), ("keep_best", 2), ("title", "mine")]
)
def test_what_changes_no_result_of_a_stage_may_change(tmp_path: Path, key: str, value: Any):
    assert resume(start_and_leave(tmp_path), changed(key, value)) == [f"stages.g2.{key}"]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("from", "own", r"stages\.g2\.from"),
        ("clips", {"splits": ["val"]}, r"stages\.g2\.clips\.splits"),
        ("optim", {"kind": "sgd"}, r"stages\.g2\.optim\.kind"),
    ],
)
def test_a_resumed_run_may_not_change_what_a_stage_computes(
    tmp_path: Path, key: str, value: Any, named: str
):
    path = start_and_leave(tmp_path)
    with pytest.raises(ConfigError, match=f"was started with another {named}.*; resume it"):
        resume(path, changed(key, value))


def test_a_resumed_run_may_not_change_the_order_or_the_number_of_stages(tmp_path: Path):
    path = start_and_leave(tmp_path)
    for stages in ([*CHAIN[:-2], CHAIN[-1], CHAIN[-2]], CHAIN[:-1], []):
        with pytest.raises(ConfigError, match=r"was started with another stages\.order.*; resume"):
            resume(path, recipe(stages=stages))


def test_a_setting_names_a_stage(tmp_path: Path):
    head = 'model = "m"\nlabels = [{name = "a"}, {name = "b"}]\n[data]\nmanifest = "m.jsonl"\n'
    stages = '[[stages]]\nname = "s"\nkind = "sft"\n[[stages]]\nname = "g"\nkind = "grpo"\n'
    path = tmp_path / "r.toml"
    path.write_text(head + stages)
    overrides = ["stages.g.num_steps=7", "stages.s.data=labels", "stages.g.optim.warmup_steps=1"]
    chain = read_recipe(path, overrides).chain
    grpo: Any = chain["g"]
    assert (grpo.num_steps, grpo.optim.warmup_steps, grpo.optim.learning_rate) == (7, 1, 1e-6)
    assert chain["s"].describe() == "supervised on labels alone"
    with pytest.raises(ConfigError, match=r"--set 'stages\.gg\.num_steps=7': did you mean 'g'"):
        read_recipe(path, ["stages.gg.num_steps=7"])
    with pytest.raises(ConfigError, match="'stages' is a list; name an entry of it"):
        apply_override({"stages": [{"name": "g"}]}, "stages.g=7")


# --- refusals


async def test_a_stage_is_not_run_again_under_stages_that_came_from_it(tmp_path: Path):
    run_dir, _ = await whole(tmp_path)
    (run_dir.path / "stages/own/done.json").unlink()
    with pytest.raises(ConfigError, match=r"g1, g2, verdict, unseen in .* came from .* before own"):
        await run_stages(recipe(), run_dir, ["own"])
    for name in ("g1", "g2", "verdict"):
        (run_dir.path / f"stages/{name}/done.json").unlink()
    with pytest.raises(ConfigError, match=r"^unseen in .* came from the weights before own"):
        await run_stages(recipe(), run_dir, ["own", "g1", "g2", "verdict"])


def test_what_a_stage_names_must_have_run(tmp_path: Path):
    config = recipe()
    run_dir = open_new(tmp_path, config)
    message = "stage verdict starts from g1, which has left no model in .*; run g1 first"
    with pytest.raises(ConfigError, match=message):
        model_before(config, run_dir, "verdict")
    # without a name it is the last one that is there
    assert model_before(config, run_dir, "unseen") == (config.model, 0)
    run_dir.model("own").mkdir(parents=True)
    run_dir.finish("own", {"seconds": 1.0})
    assert model_before(config, run_dir, "unseen") == (run_dir.model("own"), 2)
    assert model_before(config, run_dir, "own") == (config.model, 0)
