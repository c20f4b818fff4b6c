import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config.recipe import read_recipe
from cluster.inputs.preflight import bring_model, check, check_context, open_model
from wire.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 400, "rope_scaling": {"type": "linear", "factor": 2.0}}, 800),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "yarn", "factor": 4}}, 4096),
        ({"max_position_embeddings": 512, "rope_parameters": {"rope_type": "default"}}, 512),
        ({}, None),
    ],
)
def test_the_context_is_the_models_own_by_vllms_rule(
    recipe: Callable[..., Path], tmp_path: Path, text: dict[str, Any], limit: int | None
):
    (tmp_path / "config.json").write_text(json.dumps({"text_config": text}))
    config = read_recipe(recipe(), [f"model={tmp_path}"])
    assert check_context(config) == limit
    if limit is None:
        return
    (tmp_path / "config.json").write_text(json.dumps(text))  # as older files have it
    assert check_context(config) == limit
    room = limit - config.rollout.max_response_length - 1
    exact = read_recipe(recipe(), [f"model={tmp_path}", f"rollout.max_prompt_length={room}"])
    check_context(exact)
    above = read_recipe(recipe(), [f"model={tmp_path}", f"rollout.max_prompt_length={room + 1}"])
    with pytest.raises(ConfigError, match=f"the model has positions for {limit}"):
        check_context(above)


def test_labels_must_survive_the_tokenizer_only_where_a_model_is_asked_for_them(
    recipe: Callable[..., Path], demo: Path, tmp_path: Path
):
    model = shutil.copytree(demo / "model", tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "z"}, "content": "s"}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    head = [f"model={model}", 'calibrate.methods=["head"]']
    open_model(read_recipe(recipe(), head))
    with pytest.raises(ConfigError, match="label 'zigzag' does not survive the tokenizer"):
        open_model(read_recipe(recipe(), head[:1]))


def test_a_model_that_cannot_be_shown_embeddings_is_refused_before_a_tokenizer_is_learned(
    recipe: Callable[..., Path], tmp_path: Path
):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    path = recipe()
    path.write_text(f'{path.read_text()}\n[[stages]]\nname = "vst"\nkind = "semantic_tokens"\n')
    config = read_recipe(path, [f"model={tmp_path}", "stages.vst.render=embeddings"])
    with pytest.raises(ConfigError, match=r'a qwen3_vl model has .* use render = "text"'):
        open_model(config)


def test_a_prompt_that_no_row_can_fill_is_refused_before_the_model_is_looked_at(
    recipe: Callable[..., Path], tmp_path: Path
):
    settings = ["prompts.verdict={titel} {reasoning}", "model=Qwen/there-is-no-such-model"]
    config = read_recipe(recipe(), settings)
    with pytest.raises(DataError, match=r"prompts\.verdict: the manifest has no column 'titel'"):
        check(config, lambda _: None)
    with pytest.raises(DataError, match="no column 'titel'"):
        bring_model(config, lambda _: None)
