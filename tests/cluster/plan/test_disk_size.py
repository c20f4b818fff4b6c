from pathlib import Path

from cluster.config.recipe import RunConfig, read_recipe
from cluster.plan.disk_size import archive_bytes, checkpoint_bytes, run_bytes
from cluster.plan.model_size import KNOWN_MODELS

RECIPE = Path(__file__).parents[3] / "recipes/smarthome-7b.toml"
SHAPE = KNOWN_MODELS["Qwen2.5-VL-7B-Instruct"]


def recipe(*settings: str) -> RunConfig:
    return read_recipe(RECIPE, list(settings))


def test_a_checkpoint_holds_weights_and_the_optimiser_of_all_ranks():
    trained = SHAPE.num_trained(recipe().learner)
    expected = 2 * SHAPE.num_parameters + 12 * trained
    assert abs(checkpoint_bytes(recipe(), SHAPE) - expected) < 1000
    sgd = recipe("grpo.optim.kind=sgd")
    assert abs(checkpoint_bytes(sgd, SHAPE) - (expected - 8 * trained)) < 1000


def test_a_run_keeps_a_model_and_some_checkpoints_for_each_stage_that_trains():
    config = recipe()
    alone = run_bytes(config, SHAPE, ["coldstart"])
    kept = config.chain["coldstart"].kept_checkpoints + 1
    assert alone == 2 * SHAPE.num_parameters + kept * checkpoint_bytes(config, SHAPE)
    assert run_bytes(config, SHAPE, ["base"]) == 0


def test_a_tokenizers_segments_are_on_disk_while_it_is_fitted():
    config = read_recipe(RECIPE.with_name("demo-lvlm-var.toml"), [])
    (name,) = [s.name for s in config.chain if s.kind == "semantic_tokens"]
    segments = (config.video.max_frames // 2) * 4 * SHAPE.hidden_size * 4
    assert run_bytes(config, SHAPE, [name], 50_000) == 50_000 * segments
    done = read_recipe(RECIPE.with_name("demo-lvlm-var.toml"), [f"stages.{name}.tokenizer=/t"])
    assert run_bytes(done, SHAPE, [name], 50_000) == 0


def test_a_prompt_is_archived_once_for_its_group():
    assert archive_bytes(1000, 0) == 4000
    assert archive_bytes(0, 1000) == 16_000
