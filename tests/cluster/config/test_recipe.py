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
        ({"rollout": {"tensor_parallel_size": 2}}, "needs rollout.num_gpus=2"),
        ({"labels": [{"name": "a"}, {"name": "A"}]}, "must differ"),
        ({"labels": [{"name": "a"}]}, "labels"),
        ({"video": {"min_frames": 8, "max_frames": 4}}, "lower the first"),
    ],
)
def test_a_mistake_is_named_with_a_remedy(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        validate(RunConfig, make(**changes), "recipe")


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
