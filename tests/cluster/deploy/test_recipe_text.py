import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.recipe import read_recipe, read_recipe_values
from cluster.deploy.recipe_text import recipe_text

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.toml"))
texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, values, max_size=4))
def test_values_are_read_back_as_they_were(recipe: dict[str, object]):
    assert tomllib.loads(recipe_text(recipe)) == recipe


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_stands_alone_in_another_folder(recipe: Path, tmp_path: Path):
    setting = ["grpo.num_steps=7"] if "grpo" in read_recipe_values(recipe, []) else []
    alone = tmp_path / "alone.toml"
    alone.write_text(recipe_text(read_recipe_values(recipe, setting)), encoding="utf-8")
    assert "extends" not in alone.read_text(encoding="utf-8")
    assert read_recipe(alone, []) == read_recipe(recipe, setting)
