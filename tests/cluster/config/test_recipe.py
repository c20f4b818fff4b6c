from pathlib import Path
from typing import Any

import pytest

from cluster.config.recipe import RunConfig, read_recipe
from wire.config import validate
from wire.errors import ConfigError

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.toml"))


def make(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": "model",
        "labels": [{"name": "a"}, {"name": "b"}],
        "data": {"manifest": "m.jsonl"},
    }
    return values | changes


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_we_ship_parses(recipe: Path):
    assert read_recipe(recipe, []).labels


def test_there_is_a_recipe():
    assert RECIPES


def test_defaults_are_deepintuits():
    config = validate(RunConfig, make(), "recipe")
    loss = config.grpo.loss
    assert config.rollout.group_size == 8
    assert (loss.clip_ratio_low, loss.clip_ratio_high, loss.clip_ratio_c) == (0.2, 0.28, 3.0)
    assert (loss.rollout_is_threshold, loss.adv_epsilon) == (2.0, 1e-6)
    assert (config.calibrate.num_traces, config.calibrate.temperature) == (4, 1.0)
    assert config.evaluate.temperature == 0.01
    assert config.grpo.max_staleness == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grppo": {}}, "unknown key 'grppo'; did you mean 'grpo'"),
        ({"rollout": {"groupsize": 4}}, "did you mean 'group_size'"),
        ({"rollout": {"group_size": "many"}}, "rollout.group_size = 'many'"),
        ({"grpo": {"groups_per_step": 6, "groups_per_update": 4}}, "no multiple of"),
        ({"transfer": {"kind": "nccl"}}, "needs GPUs"),
        ({"transfer": {"kind": "ipc"}}, "needs GPUs"),
        (
            {"transfer": {"kind": "ipc"}, "rollout": {"num_gpus": 1}, "learner": {"num_gpus": 1}},
            "rollout.num_gpus=1 and learner.num_gpus=1 give them GPUs of their own",
        ),
        (
            {
                "transfer": {"kind": "nccl"},
                "rollout": {"num_gpus": 0.5},
                "learner": {"num_gpus": 0.5},
            },
            "cannot send between processes on one GPU.*use kind = 'ipc'",
        ),
        ({"rollout": {"tensor_parallel_size": 2}}, "needs rollout.num_gpus=2"),
        (
            {"rollout": {"num_gpus": 0.5, "num_workers": 2}, "learner": {"num_gpus": 0.5}},
            "num_workers=2 and learner.num_ranks=1; make the two numbers equal",
        ),
        ({"learner": {"num_gpus": 0.5, "num_ranks": 2}}, "two of 2 ranks on one GPU"),
        ({"rollout": {"num_gpus": 2}}, "would leave idle"),
        (
            {"rollout": {"share_embeddings": True}, "learner": {"freeze_vision_tower": False}},
            "or the merger trains: freeze both",
        ),
        (
            {"rollout": {"share_embeddings": True, "dtype": "float32"}},
            "learner.dtype='bfloat16' differ",
        ),
        ({"rollout": {"share_embeddings": True}, "deterministic": True}, "is chance"),
        (
            {"rollout": {"num_gpus": 1, "sleep": True}, "learner": {"num_gpus": 1}},
            "share none; leave sleep out, or give both 0.5",
        ),
        ({"rollout": {"sleep": True}, "grpo": {"max_staleness": 1}}, "set max_staleness=0"),
        (
            {
                "learner": {
                    "offload_while_generating": True,
                    "offload": "optimizer",
                    "zero_stage": 2,
                }
            },
            "leave one of them out",
        ),
        ({"rollout": {"num_gpus": 4, "tensor_parallel_size": 2}}, "make them equal"),
        ({"labels": [{"name": "a"}, {"name": "A"}]}, "must differ"),
        ({"labels": [{"name": "a"}]}, "labels"),
        ({"video": {"min_frames": 8, "max_frames": 4}}, "lower the first"),
        (
            {"calibrate": {"lora": {}}, "learner": {"freeze_vision_tower": False}},
            r"set calibrated\.lora\.handoff = 'merged'",
        ),
        (
            {"coldstart": {"lora": {}}, "learner": {"lora": {}}},
            r"coldstart\.lora beside learner\.lora",
        ),
    ],
)
def test_a_mistake_is_named_with_a_remedy(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        validate(RunConfig, make(**changes), "recipe")


@pytest.mark.parametrize(
    ("engine", "rank", "colocated"),
    [(0.5, 0.5, True), (0.7, 0.3, True), (1, 1, False), (0.6, 0.6, False), (0, 0.5, False)],
)
def test_an_engine_and_a_rank_share_a_gpu_if_their_parts_add_up_to_one(
    engine: float, rank: float, colocated: bool
):
    values = make(rollout={"num_gpus": engine}, learner={"num_gpus": rank})
    assert validate(RunConfig, values, "recipe").colocated is colocated


def test_setting_one_key_of_an_optimiser_keeps_the_stages_other_defaults():
    values = make(coldstart={"optim": {"warmup_steps": 3}}, grpo={"optim": {"weight_decay": 0.0}})
    config = validate(RunConfig, values, "recipe")
    assert (config.coldstart.optim.learning_rate, config.coldstart.optim.decay) == (2e-5, "linear")
    assert (config.grpo.optim.learning_rate, config.grpo.optim.warmup_steps) == (1e-6, 10)


def test_a_missing_section_is_named():
    with pytest.raises(ConfigError, match="'data' is missing"):
        validate(RunConfig, {k: v for k, v in make().items() if k != "data"}, "recipe")


def test_paths_start_at_the_recipes_folder_and_know_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MEDIA", "/media")
    (tmp_path / "r.toml").write_text(
        'model = "m"\nlabels = [{name = "a"}, {name = "b"}]\n'
        '[data]\nmanifest = "d/m.jsonl"\nmedia_root = "$MEDIA/x"\n'
    )
    config = read_recipe(tmp_path / "r.toml", ["grpo.num_steps=7"])
    assert config.model == tmp_path / "m"
    assert config.data.manifest == tmp_path / "d/m.jsonl"
    assert config.data.media_root == Path("/media/x")
    assert config.grpo.num_steps == 7


TASK = 'model = "m"\nlabels = [{name = "a"}, {name = "b"}]\ndata = { manifest = "m.jsonl" }\n'


def test_prompts_and_definitions_may_be_files_beside_the_recipe_that_names_them(tmp_path: Path):
    (tmp_path / "below").mkdir()
    for name, text in (
        ("below/trace.txt", "\ufeffLook.\r\n{labels}\n\n"),
        ("a.txt", "pages\n of it\n"),
    ):
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "below/base.toml").write_text(
        'model = "m"\ndata = { manifest = "m.jsonl" }\nprompts.trace = { file = "trace.txt" }\n'
    )
    (tmp_path / "r.toml").write_text(
        'extends = "below/base.toml"\nprompts.system = "Be brief."\n'
        'labels = [{ name = "a", definition = { file = "a.txt" } }, { name = "b" }]\n'
    )
    config = read_recipe(tmp_path / "r.toml", [])
    assert config.prompts.trace == "Look.\n{labels}"
    assert config.prompts.system == "Be brief."
    assert [label.definition for label in config.labels] == ["pages\n of it", ""]
    assert validate(RunConfig, config.model_dump(mode="json"), "run.json") == config, "no file left"
    (tmp_path / "other.txt").write_text("Other.")
    other = read_recipe(tmp_path / "r.toml", ["prompts.trace.file=other.txt"])
    assert other.prompts.trace == "Other."
    short = read_recipe(tmp_path / "r.toml", ["prompts.trace=Short."])
    assert short.prompts.trace == "Short."


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (
            'trace = { file = "no.txt" }',
            "prompts.trace: cannot read .*no.txt: No such file.*; give",
        ),
        ('trace = { file = "empty.txt" }', "prompts.trace: .*empty.txt is empty"),
        ('trace = { file = "bytes.txt" }', "bytes.txt is not UTF-8 text"),
        (
            'trace = { path = "a.txt" }',
            'prompts.trace = .*: expected a text, or { file = "a.txt" }',
        ),
        ("trace = { file = 3 }", "expected a text, or"),
        ('tracee = "a"', "unknown key 'prompts.tracee'; did you mean 'trace'"),
        ('trace = "{label}"', "{label} is not shown: it would show the model the answer"),
        ('verdict = "{trace}"', "{trace} is not shown"),
        ('label = "{reasoning}"', "is of a verdict's prompt, prompts.verdict, alone"),
        ('trace = """x\n{"a": 1}"""', "line 2: the brace of .* a literal brace is written twice"),
        (
            'trace = "{text}"',
            "prompts.trace shows {text}; say whether it is to: data.use_side_text",
        ),
    ],
)
def test_a_prompt_that_cannot_be_used_is_refused_by_name(
    tmp_path: Path, prompts: str, message: str
):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "r.toml").write_text(f"{TASK}[prompts]\n{prompts}\n")
    with pytest.raises(ConfigError, match=message):
        read_recipe(tmp_path / "r.toml", [])


@pytest.mark.parametrize("shown", [True, False])
def test_a_prompt_with_side_text_is_taken_once_the_recipe_says_whether_to_show_it(
    tmp_path: Path, shown: bool
):
    (tmp_path / "r.toml").write_text(f'{TASK}[prompts]\ntrace = "{{text}}"\n')
    config = read_recipe(tmp_path / "r.toml", [f"data.use_side_text={str(shown).lower()}"])
    assert config.prompt_set.use_side_text == shown


@pytest.mark.parametrize("by_setting", [False, True])
def test_a_model_of_the_hub_keeps_its_name_unless_there_is_such_a_directory(
    tmp_path: Path, by_setting: bool
):
    model = "Qwen/Qwen2.5-VL-7B-Instruct"
    text = 'labels = [{name = "a"}, {name = "b"}]\n[data]\nmanifest = "m.jsonl"\n'
    written, override = ("x", [f"model={model}"]) if by_setting else (model, [])
    (tmp_path / "r.toml").write_text(f'model = "{written}"\n{text}')
    assert read_recipe(tmp_path / "r.toml", override).model == Path(model)
    (tmp_path / model).mkdir(parents=True)
    assert read_recipe(tmp_path / "r.toml", override).model == tmp_path / model


def test_only_a_model_may_be_a_name_of_the_hub(tmp_path: Path):
    text = 'model = "m"\nlabels = [{name = "a"}, {name = "b"}]\n[data]\nmanifest = "d/m.jsonl"\n'
    (tmp_path / "r.toml").write_text(text)
    assert read_recipe(tmp_path / "r.toml", []).data.manifest == tmp_path / "d/m.jsonl"


def test_a_step_is_split_into_whole_updates():
    config = validate(
        RunConfig, make(grpo={"groups_per_step": 64, "groups_per_update": 32}), "recipe"
    )
    assert config.grpo.updates_per_step == 2


@pytest.mark.parametrize("stage", ["coldstart", "grpo"])
def test_a_rate_for_a_frozen_part_is_refused_with_the_key_that_frees_it(stage: str):
    merger = make(**{stage: {"optim": {"merger_learning_rate": 1e-5}}})
    with pytest.raises(ConfigError, match=r"set learner\.freeze_merger=false, or leave"):
        validate(RunConfig, merger, "recipe")
    config = validate(RunConfig, merger | {"learner": {"freeze_merger": False}}, "recipe")
    assert config.learner.freeze_vision_tower
    tower = make(**{stage: {"optim": {"vision_learning_rate": 1e-5}}})
    with pytest.raises(ConfigError, match=f"{stage}.optim.vision_learning_rate=1e-05"):
        validate(RunConfig, tower | {"learner": {"freeze_merger": False}}, "recipe")


def test_a_recipe_that_names_a_port_for_nccl_is_still_read():
    gpus = {"num_gpus": 1}
    values = make(transfer={"kind": "nccl", "port": 29_600}, rollout=gpus, learner=gpus)
    assert validate(RunConfig, values, "recipe").transfer.kind == "nccl"
