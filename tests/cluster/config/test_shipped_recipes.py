"""Every recipe we ship parses, validates and plans; the papers' hold the papers' values."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.check.prompt_texts import text_findings
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.rationales import RationalesStage
from cluster.config.kinds.semantic_tokens import SemanticTokensStage
from cluster.config.kinds.sft import SftStage
from cluster.config.recipe import RunConfig, read_recipe
from cluster.demo.pairs import base_labels
from cluster.plan.run_plan import make_plan
from rollout.prompts_config import ONLY_IN, TASK_FIELDS, TEXT_NAMES, TRACE_FIELDS
from wire.finding import Level
from wire.types import Sample, Split

FOLDER = Path(__file__).parents[3] / "recipes"
RECIPES = sorted(FOLDER.glob("*.toml"))
STAGES = ("base", "coldstart", "grpo", "calibrated")
SAMPLE = Sample(id="a", video="a.mp4", label="normal", split=Split.TRAIN)
CHAINS = {
    "label-only": {"base": "base", "labels": "base", "labels_blank": "labels"},
    "grpo-without-coldstart": {"base": "base", "grpo": "base", "calibrated": "grpo"},
    "rejection-then-grpo": {
        **{"coldstart": "base", "rft": "coldstart", "grpo": "rft", "calibrated": "grpo"}
    },
    "two-grpo": {
        **{"base": "base", "coldstart": "base", "grpo": "coldstart"},
        **{"grpo_cal": "grpo", "calibrated": "grpo"},
    },
    "demo-staleness": {
        "coldstart": "base",
        **dict.fromkeys(("grpo_0", "grpo_1", "grpo_2"), "coldstart"),
    },
}
"""Recipe -> its stages, each with what it starts from."""

_ARMS = {"rbft": "hinted", "kept": "hinted", "nohint": "unhinted", "caption": "captions"}
_WRITES = dict.fromkeys(("hinted", "unhinted", "captions"), "base")
SPLITTING_CHAIN = {"demo-splitting": {"calibrated": "base"}}
RBFT_CHAINS = {
    "demo-rbft": {
        **dict.fromkeys(("base", "labels", "rationales", "stage1"), "base"),
        "rbft": "stage1",
    },
    "demo-rbft-arms": {
        **dict.fromkeys(("labels", "labels_equal", "mixed", *_WRITES), "base"),
        **{f"{arm}1": "base" for arm in (*_ARMS, "teacher")},
        **{arm: f"{arm}1" for arm in (*_ARMS, "teacher")},
    },
    "demo-rbft-grpo": {
        **{"rationales": "base", "coldstart": "base"},
        **{"grpo": "coldstart", "calibrated": "grpo"},
    },
    "rbft-smarthome-7b": {
        **dict.fromkeys(("base", "labels", "rationales", "stage1"), "base"),
        "rbft": "stage1",
    },
}
"""RB-FT's, the same."""
_CONTROLS = ("narrative_shuffled", "narrative_dropped", "narrative_random")
_ABLATIONS = ("embedded", "no_quantisation", "no_temporal", "no_semantic", "no_lora", "video")
_TOKENIZERS = ("", "_embedded", "_soft", "_without_temporal", "_without_semantic")
LVLM_VAR_CHAINS = {
    "demo-lvlm-var": {
        **{"tokens": "base", "explains": "base", "labels": "explains"},
        **dict.fromkeys(("lvlm_var", *_CONTROLS), "labels"),
    },
    "demo-lvlm-var-ablations": dict.fromkeys(
        ("labels", "pooled", *_ABLATIONS, *(f"tokens{name}" for name in _TOKENIZERS)), "base"
    ),
    "demo-lvlm-var-grpo": {
        **dict.fromkeys(("tokens", "told", "seen"), "base"),
        **{"grpo": "told", "grpo_video": "seen"},
    },
}
"""LVLM-VAR's, the same, but that a tokenizer starts from what stands before it."""


@pytest.fixture(params=["smarthome-7b", "smarthome-7b-text"])
def paper(request: pytest.FixtureRequest) -> RunConfig:
    return read_recipe(FOLDER / f"{request.param}.toml", [])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_we_ship_plans(recipe: Path):
    config = read_recipe(recipe, [])
    plan = make_plan(config, config.chain.names)
    chains = CHAINS | RBFT_CHAINS | LVLM_VAR_CHAINS | SPLITTING_CHAIN
    expected = chains.get(recipe.stem, STAGES)
    assert sorted(stage.name for stage in plan.stages) == sorted(expected)
    has_grpo = any(isinstance(stage, GrpoStage) for stage in config.chain)
    assert (plan.step is not None) == has_grpo
    assert plan.step is None or plan.step.updates == config.grpo.updates_per_step


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_extends_the_demo_and_starts_each_stage_where_its_comment_says(name: str):
    config = read_recipe(FOLDER / f"{name}.toml", [])
    demo = read_recipe(FOLDER / "demo.toml", [])
    assert config.model_copy(update={"stages": ()}) == demo
    assert {stage: config.chain.parent(stage) for stage in config.chain.names} == CHAINS[name]


def test_the_validated_demo_trains_as_the_demo_does_and_counts_what_validation_asks():
    config = read_recipe(FOLDER / "validated.toml", [])
    demo = read_recipe(FOLDER / "demo.toml", [])
    for stage in demo.chain:
        mine = config.chain[stage.name]
        off = {"validation": stage.validated} if stage.validated != mine.validated else {}
        assert mine.model_copy(update=off) == stage
    validations = {s.name: s.validated.num_validations(80) for s in config.chain}
    assert validations == {"base": 0, "coldstart": 3, "grpo": 9, "calibrated": 3}
    grpo = config.chain["grpo"].validated
    assert (grpo.num_clips, grpo.patience, grpo.restore_best) == (100, 3, True)


def test_rejection_and_grpo_write_as_many_traces_as_the_demos_grpo():
    config = read_recipe(FOLDER / "rejection-then-grpo.toml", [])
    stages = [stage.work(None, config.rollout) for stage in config.chain]
    demo = read_recipe(FOLDER / "demo.toml", [])
    written = [stage.rollouts for stage in stages if stage.rollouts]
    assert sum(written) == demo.chain["grpo"].work(None, demo.rollout).rollouts
    assert written[0] == written[1]


def test_the_verdict_beside_two_grpos_has_clips_that_its_policy_has_not_learned_from():
    chain = read_recipe(FOLDER / "two-grpo.toml", []).chain
    verdict, learned = chain["calibrated"], chain[chain.parent("calibrated")]
    assert isinstance(verdict, CalibrateStage)
    assert isinstance(learned, GrpoStage)
    assert not set(verdict.clips.splits) & set(learned.clips.splits)


def test_the_cold_start_is_that_of_seeds_1_4(paper: RunConfig):
    assert (paper.coldstart.epochs, paper.coldstart.batch_size) == (5, 64 * 8)
    optim = paper.coldstart.optim
    assert (optim.learning_rate, optim.kind, optim.decay) == (2e-5, "adamw", "linear")
    assert (optim.warmup_frac, optim.warmup_steps) == (0.06, 0)
    assert (paper.video.max_frames, paper.video.max_pixels) == (32, 448 * 448)
    assert paper.learner.freeze_vision_tower
    assert paper.learner.gradient_checkpointing
    assert (paper.learner.zero_stage, paper.learner.dtype) == (3, "bfloat16")
    assert paper.seed == 42


def test_grpo_is_that_of_seeds_1_5(paper: RunConfig):
    grpo, rollout = paper.grpo, paper.rollout
    assert (rollout.group_size, rollout.temperature, rollout.tensor_parallel_size) == (8, 1.0, 1)
    assert (rollout.max_prompt_length, rollout.max_response_length) == (26_000, 2048)
    assert (grpo.num_steps, grpo.groups_per_step, grpo.groups_per_update) == (240, 64, 32)
    assert grpo.updates_per_step == 2
    assert grpo.save_every == 50
    assert (grpo.optim.learning_rate, grpo.optim.weight_decay) == (1e-6, 0.1)
    assert grpo.optim.grad_clip == 1.0
    assert grpo.optim.warmup_steps == 10 * grpo.updates_per_step
    loss = grpo.loss
    assert (loss.clip_ratio_low, loss.clip_ratio_high, loss.clip_ratio_c) == (0.2, 0.28, 3.0)
    assert (loss.rollout_is_threshold, loss.adv_epsilon) == (2.0, 1e-6)
    terms = [(term.function, term.weight) for term in paper.reward.terms]
    assert terms == [("accuracy", 1.0), ("format", 1.0)]


def test_calibration_and_inference_are_those_of_seeds_1_1_1_6_and_1_8(paper: RunConfig):
    calibrate = paper.calibrate
    assert (calibrate.num_traces, calibrate.temperature) == (4, 1.0)
    assert (calibrate.methods, calibrate.split) == (("verdict",), "train")
    assert (calibrate.epochs, calibrate.batch_size) == (10, 256)
    assert (calibrate.learning_rate, calibrate.warmup_frac) == (2e-5, 0.06)
    assert (paper.evaluate.temperature, paper.evaluate.split) == (0.01, Split.TEST)


def test_the_plan_has_the_papers_counts_on_eight_gpus(paper: RunConfig):
    plan = make_plan(paper, STAGES)
    assert (plan.step.groups, plan.step.rollouts, plan.step.updates) == (64, 512, 2)
    assert plan.stages[2].updates == 480
    assert plan.rollout.gpus + plan.learner.gpus == 8
    assert plan.clip_tokens is not None
    assert plan.clip_tokens.tokens == 16 * 256
    assert plan.memory is not None
    assert plan.memory.parameters == 8_292_166_656
    assert [warning.partition(":")[0] for warning in plan.warnings] == ["calibrate.split = 'train'"]


def test_on_the_papers_clips_the_plan_has_the_counts_that_its_header_names(tmp_path: Path):
    (tmp_path / "clip.mp4").touch()
    splits = ["train"] * 815 + ["test"] * 196
    rows = [
        {"id": str(i), "video": "clip.mp4", "label": "normal", "split": split, "trace": "t"}
        for i, split in enumerate(splits)
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = read_recipe(FOLDER / "smarthome-7b.toml", [f"data.manifest={manifest}"])
    _, _, grpo, calibrated = make_plan(config, STAGES).stages
    assert (calibrated.examples, calibrated.updates) == (3260, 130)
    assert grpo.epochs == pytest.approx(18.8, abs=0.05)


def test_the_two_recipes_differ_in_the_side_text_alone():
    plain = read_recipe(FOLDER / "smarthome-7b.toml", [])
    text = read_recipe(FOLDER / "smarthome-7b-text.toml", ["data.use_side_text=false"])
    assert text == plain
    assert read_recipe(FOLDER / "smarthome-7b-text.toml", []).data.use_side_text
    assert not plain.data.use_side_text


def test_the_recipe_of_the_procedure_differs_in_its_prompts_alone():
    plain = read_recipe(FOLDER / "smarthome-7b.toml", [])
    procedure = read_recipe(FOLDER / "smarthome-7b-procedure.toml", [])
    assert procedure.model_copy(update={"prompts": plain.prompts}) == plain
    assert procedure.prompt_set.user_texts == ("trace", "verdict")


@pytest.mark.parametrize("text", [None, "A dog barks at the door."])
def test_the_procedure_is_that_of_seeds_1_3(text: str | None):
    config = read_recipe(
        FOLDER / "smarthome-7b-procedure.toml", [f"data.use_side_text={str(bool(text)).lower()}"]
    )
    sample = replace(SAMPLE, text=text)
    assert [f.level for f in text_findings(config.prompt_set, [sample])] == [Level.OK]
    trace = "<think>Step 1 - a dog.</think><answer>normal</answer>"
    asked = config.prompt_set.trace(sample)[0].text
    order = ["<think>", "<answer>", "- abnormal: something", "- normal: everyday", "Step 1",
             "Step 2", "Is it abnormal?", "is it normal?", "Step 3", "Material"]  # fmt: skip
    assert sorted(order, key=asked.index) == order
    review = config.prompt_set.verdict(sample, trace)[0].text
    assert "abnormal takes precedence" in review
    assert "conclusion: normal\nFirst reviewer's reasoning:\nStep 1 - a dog.\n" in review
    shown = f"Text that came with the video: {text}\n"
    assert (shown in asked, shown in review) == (bool(text), bool(text))


def test_the_example_of_the_page_on_prompts_is_a_recipe(tmp_path: Path):
    page = (FOLDER.parent / "docs/prompts.md").read_text()
    example = page.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "prompts").mkdir()
    for name in ("trace", "verdict", "rationale", "drink"):
        (tmp_path / f"prompts/{name}.txt").write_text(f"{name}: {{labels}} {{definitions}}")
    rest = '[data]\nmanifest = "m.jsonl"\n'
    (tmp_path / "r.toml").write_text(f'model = "m"\n{example}\n{rest}')
    config = read_recipe(tmp_path / "r.toml", [])
    assert config.prompt_set.user_texts == TEXT_NAMES
    assert config.labels[0].definition == "drink: {labels} {definitions}"
    (_, message) = config.prompt_set.trace(SAMPLE)
    assert "- drink: drink: {labels} {definitions}" in message.text, "a definition has no fields"
    every = set(re.findall(r"^\| `\{(\w+)\}`", page, re.MULTILINE)) - {"NAME"}
    assert every | {"conclusion"} == {*TASK_FIELDS, *TRACE_FIELDS, *ONLY_IN}


# --- RB-FT


@pytest.mark.parametrize("name", RBFT_CHAINS)
def test_a_chain_of_rb_ft_starts_each_stage_where_its_comment_says(name: str):
    chain = read_recipe(FOLDER / f"{name}.toml", []).chain
    assert {stage: chain.parent(stage) for stage in chain.names} == RBFT_CHAINS[name]


def test_rb_ft_on_smarthome_has_the_values_of_seeds_2_3():
    config = read_recipe(FOLDER / "rbft-smarthome-7b.toml", [])
    one, two, control = (config.chain[name] for name in ("stage1", "rbft", "labels"))
    writes = config.chain["rationales"]
    assert isinstance(one, SftStage)
    assert isinstance(two, SftStage)
    assert isinstance(control, SftStage)
    assert isinstance(writes, RationalesStage)
    rates = [
        (s.optim.learning_rate, s.optim.merger_learning_rate, s.optim.vision_learning_rate)
        for s in (one, two)
    ]
    assert rates == [(1e-6, 1e-5, 2e-6), (1e-5, 1e-5, 2e-6)]
    for stage in (one, two):
        assert (stage.epochs, stage.batch_size) == (3, 8)
        optim = stage.optim
        assert (optim.decay, optim.warmup_frac, optim.weight_decay) == ("cosine", 0.03, 0.1)
        assert (optim.kind, optim.grad_clip) == ("adamw", 1.0)
    learner, video = config.learner, config.video
    assert not any((learner.freeze_vision_tower, learner.merger_frozen, learner.lora))
    assert (learner.zero_stage, learner.offload, learner.dtype) == (2, "optimizer", "bfloat16")
    assert (video.fps, video.max_pixels) == (1.0, 360 * 420)
    assert (one.hint, one.rationales, writes.hint) == ("keep", "rationales", True)
    assert (writes.num_rationales, set(writes.filters.model_dump().values())) == (1, {False})
    same = {"name": "rbft", "from_": "stage1", "title": two.title}
    assert control.model_copy(update=same) == two, "the control has the same data, epochs and rates"
    asked = config.prompt_set.rationale(SAMPLE, hint=True)[-1].text
    assert asked.rstrip().endswith("Classification: CLASS")
    assert "normal" in asked.partition("Say why")[0]
    bare = config.prompt_set.rationale(SAMPLE, hint=False)[-1].text
    assert "normal" not in bare.partition("Say why")[0]
    label = config.prompt_set.label(SAMPLE)[-1].text
    assert "Classification" not in label
    for context in ("children", "pets", "wild animals", "access", "household"):
        assert context in label


def test_rb_ft_on_the_papers_clips_has_as_many_updates_as_its_control(tmp_path: Path):
    (tmp_path / "clip.mp4").touch()
    rows = [
        {"id": str(i), "video": "clip.mp4", "label": "normal", "split": split, "trace": "t"}
        for i, split in enumerate(["train"] * 778 + ["test"] * 196)
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    name, given = "rbft-smarthome-7b", [f"data.manifest={manifest}"]
    config = read_recipe(FOLDER / f"{name}.toml", given)
    _, *stages = make_plan(config, config.chain.names).stages
    assert [stage.updates for stage in stages] == [294, 0, 294, 294], "98 updates an epoch"
    assert [stage.rollouts for stage in stages] == [0, 778, 0, 0]
    theirs = read_recipe(FOLDER / f"{name}.toml", [*given, "stages.stage1.rationales=manifest"])
    assert theirs.chain["stage1"].work(None, theirs.rollout).rollouts == 0


def test_the_demos_controls_have_as_many_updates_as_rb_ft(tmp_path: Path):
    demo = read_recipe(FOLDER / "demo-rbft.toml", [])
    arms = read_recipe(FOLDER / "demo-rbft-arms.toml", [])
    clips = [replace(SAMPLE, id=str(i), label="undo") for i in range(600)]
    updates = {
        stage.name: stage.work(clips, config.rollout).updates
        for config in (demo, arms)
        for stage in config.chain
        if stage.leaves_policy and not (isinstance(stage, SftStage) and stage.learns_traces)
    }
    assert updates["labels_equal"] == updates["rbft1"] + updates["rbft"] == 209
    assert demo.chain["labels"].work(clips, demo.rollout).updates == 209
    assert demo.chain["rbft"].work(clips, demo.rollout).updates == updates["labels"] == 152
    for arm in ("kept", "nohint", "caption"):
        assert (updates[f"{arm}1"], updates[arm]) == (updates["rbft1"], updates["rbft"])
    asked = demo.prompt_set.rationale(replace(SAMPLE, label="undo"), hint=True)[-1].text
    assert "The label of this video is undo" in asked


@pytest.mark.parametrize("name", LVLM_VAR_CHAINS)
def test_a_chain_of_lvlm_var_starts_each_policy_where_it_says(name: str):
    chain = read_recipe(FOLDER / f"{name}.toml", []).chain
    policies = [stage.name for stage in chain if not isinstance(stage, SemanticTokensStage)]
    found = {stage: chain.parent(stage) for stage in policies}
    assert found == {stage: LVLM_VAR_CHAINS[name][stage] for stage in policies}


def test_every_training_of_lvlm_var_is_lora_but_the_ablation_without():
    demo = read_recipe(FOLDER / "demo-lvlm-var.toml", [])
    assert demo.learner.lora is not None
    chain = read_recipe(FOLDER / "demo-lvlm-var-ablations.toml", []).chain
    trainings = [stage for stage in chain if isinstance(stage, SftStage)]
    assert [stage.name for stage in trainings if stage.lora is None] == ["no_lora"]
    shown = {stage.name: chain.tokenizer(stage.name) for stage in trainings}
    assert shown == {
        "labels": "tokens",
        "embedded": "tokens_embedded",
        "no_quantisation": "tokens_soft",
        "no_temporal": "tokens_without_temporal",
        "no_semantic": "tokens_without_semantic",
        "no_lora": "tokens",
        "video": None,
    }


def test_the_splitting_demo_fits_a_head_that_can_be_split_to_the_labels_of_its_manifest():
    config = read_recipe(FOLDER / "demo-splitting.toml", [])
    (stage,) = config.chain
    assert isinstance(stage, CalibrateStage)
    assert (stage.sources, stage.head_features) == (("head",), "video")
    assert config.label_set.names == tuple(sorted(base_labels()))
