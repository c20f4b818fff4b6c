import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from wire.config import Config, apply_override, flatten, load_recipe, validate
from wire.errors import ConfigError


class Files(Config):
    kind: Literal["files"]
    directory: Path


class Nccl(Config):
    kind: Literal["nccl"]
    port: int = 29_500


class Rollout(Config):
    group_size: int = Field(default=8, ge=2)
    """Completions sampled per question."""
    timeout_s: float = 60.0


class Recipe(Config):
    model: str
    rollout: Rollout = Rollout()
    transfer: Annotated[Files | Nccl, Field(discriminator="kind")] = Nccl(kind="nccl")
    stages: tuple[Rollout, ...] = ()
    named: dict[str, Rollout] = Field(default_factory=dict)
    labels: tuple[str, ...] = Field(default=("a", "b"), min_length=2)
    maybe: Rollout | None = None

    @model_validator(mode="after")
    def _rule(self) -> "Recipe":
        if self.model == "none":
            raise ValueError("model='none' cannot be trained; name a folder")
        return self


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(Recipe, {"model": "m"} | values, source="a.toml")
    return str(caught.value)


def write_recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_is_read_and_its_overrides_win(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, 'model = "m"\n[rollout]\ngroup_size = 4\ntimeout_s = 5\n')
    recipe = load_recipe(Recipe, path, ["rollout.group_size=6", "maybe.timeout_s=1.5"])
    assert recipe.rollout == Rollout(group_size=6, timeout_s=5.0)
    assert recipe.maybe == Rollout(timeout_s=1.5)


def test_a_section_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Rollout().group_size = 3  # type: ignore[misc]


def test_the_docstring_under_a_field_is_its_help() -> None:
    field = Rollout.model_fields["group_size"]
    assert field.description == "Completions sampled per question."


@pytest.mark.parametrize(
    ("values", "where", "near"),
    [
        ({"modle": 1}, "modle", "model"),
        ({"rollout": {"groupsize": 4}}, "rollout.groupsize", "group_size"),
        ({"maybe": {"timeout": 4}}, "maybe.timeout", "timeout_s"),
        ({"stages": [{}, {"group_sizes": 4}]}, "stages.1.group_sizes", "group_size"),
        ({"named": {"a": {"time_s": 4}}}, "named.a.time_s", "timeout_s"),
        ({"transfer": {"kind": "nccl", "prot": 4}}, "transfer.nccl.prot", "port"),
        (
            {"transfer": {"kind": "files", "directory": "x", "directori": 4}},
            "transfer.files.directori",
            "directory",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(
    values: dict[str, Any], where: str, near: str
) -> None:
    assert refused(values) == f"a.toml: unknown key '{where}'; did you mean '{near}'?"


def test_an_unknown_key_that_resembles_none_gets_the_list() -> None:
    message = refused({"rollout": {"zzz": 1}})
    assert message.endswith("unknown key 'rollout.zzz'; known here: group_size, timeout_s")


def test_every_mistake_is_named_at_once() -> None:
    message = refused({"rollout": {"group_size": "many", "timout_s": 1}, "transfer": {"kind": "x"}})
    assert "rollout.group_size = 'many': expected a valid integer" in message
    assert "did you mean 'timeout_s'?" in message
    assert "'files', 'nccl'" in message


def test_a_wrong_type_says_what_was_got_and_expected() -> None:
    assert refused({"rollout": 3}).startswith("a.toml: rollout = 3: expected a valid dict")
    assert "rollout.group_size = 1: expected a number greater than or equal to 2" in refused(
        {"rollout": {"group_size": 1}}
    )


def test_a_list_that_is_too_short_says_how_many_are_expected() -> None:
    assert "labels = ['a']: expected at least 2 items" in refused({"labels": ["a"]})


def test_a_long_value_is_shortened() -> None:
    message = refused({"rollout": {"group_size": "x" * 500}})
    assert "..." in message
    assert len(message) < 300


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"a\.toml: 'model' is missing; add it"):
        validate(Recipe, {}, source="a.toml")


def test_a_rule_of_our_own_speaks_for_itself() -> None:
    message = refused({"model": "none"})
    assert "model='none' cannot be trained; name a folder" in message
    assert "Value error" not in message


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("a=3", {"a": 3}),
        ("a.b.c=true", {"a": {"b": {"c": True}}}),
        ("a=1e-5", {"a": 1e-5}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a={b = 1}", {"a": {"b": 1}}),
        ('a="3"', {"a": "3"}),
        ("a=plain words", {"a": "plain words"}),
        ("a=/data/x=y.mp4", {"a": "/data/x=y.mp4"}),
        ("a=", {"a": ""}),
        (" a = 3", {"a": 3}),
        ("a=1.2.3", {"a": "1.2.3"}),
    ],
)
def test_an_override_is_toml_or_else_plain_text(override: str, values: dict[str, Any]) -> None:
    found: dict[str, Any] = {}
    apply_override(found, override)
    assert found == values


def test_overrides_leave_their_neighbours_alone() -> None:
    values: dict[str, Any] = {"a": {"b": 1, "c": 2}}
    apply_override(values, "a.b=3")
    assert values == {"a": {"b": 3, "c": 2}}


@pytest.mark.parametrize("override", ["", "a", "=3", "  =3"])
def test_an_override_without_key_or_value_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value"):
        apply_override({}, override)


def test_an_override_below_a_plain_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="'a' is a value, not a section, so it has no 'b'"):
        apply_override({"a": 1}, "a.b=2")


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the recipe .*none\.toml: No such file"):
        load_recipe(Recipe, tmp_path / "none.toml", [])


def test_a_recipe_that_is_not_toml_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.toml is not valid TOML: .*line 2"):
        load_recipe(Recipe, write_recipe(tmp_path, 'model = "m"\nrollout = \n'), [])


def test_a_recipe_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b'model = "\xff"')
    with pytest.raises(ConfigError, match=r"recipe\.toml is not UTF-8 text"):
        load_recipe(Recipe, path, [])


def test_an_extended_recipe_gives_what_is_not_set_here_table_by_table(tmp_path: Path) -> None:
    write_recipe(tmp_path, 'model = "m"\nstages = [{}, {}]\n[rollout]\ngroup_size = 4\n')
    path = tmp_path / "child.toml"
    path.write_text('extends = "recipe.toml"\nstages = [{}]\n[rollout]\ntimeout_s = 5\n')
    recipe = load_recipe(Recipe, path, ["rollout.group_size=6"])
    assert recipe.rollout == Rollout(group_size=6, timeout_s=5.0)
    assert load_recipe(Recipe, path, []).rollout == Rollout(group_size=4, timeout_s=5.0)
    assert recipe.model == "m"
    assert len(recipe.stages) == 1


def test_each_path_starts_at_the_folder_of_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    write_recipe(
        tmp_path / "base",
        'model = "m"\ntransfer = {kind = "files", directory = "d"}\nnamed = {a = {}}\n',
    )
    path = tmp_path / "child.toml"
    path.write_text('extends = "base/recipe.toml"\nmodel = "own"\n')
    keys = ("model", "transfer.directory", "maybe.directory", "rollout.group_size.x")
    recipe = load_recipe(Recipe, path, [], keys)
    assert recipe.transfer == Files(kind="files", directory=tmp_path / "base/d")
    assert recipe.model == str(tmp_path / "own")
    recipe = load_recipe(Recipe, path, ["transfer.directory=other"], keys)
    assert recipe.transfer == Files(kind="files", directory=tmp_path / "other")


def test_a_chain_of_recipes_is_followed_to_its_end(tmp_path: Path) -> None:
    write_recipe(tmp_path, 'model = "m"\n[rollout]\ngroup_size = 4\n')
    (tmp_path / "b.toml").write_text('extends = "recipe.toml"\n[rollout]\ngroup_size = 5\n')
    (tmp_path / "c.toml").write_text('extends = "b.toml"\n')
    assert load_recipe(Recipe, tmp_path / "c.toml", []).rollout.group_size == 5


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(ConfigError, match=r"circle: .*a\.toml extends .*b\.toml extends .*a\.toml"):
        load_recipe(Recipe, tmp_path / "a.toml", [])


def test_an_extended_recipe_that_is_not_there_is_named_with_who_asks(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, 'extends = "none.toml"\n')
    with pytest.raises(ConfigError, match=r"none\.toml that .*recipe\.toml extends: No such file"):
        load_recipe(Recipe, path, [])


def test_an_extension_that_is_no_path_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, 'extends = ["a.toml"]\n')
    with pytest.raises(ConfigError, match=r"extends = \['a\.toml'\]; expected the path of one"):
        load_recipe(Recipe, path, [])


def test_nested_settings_have_dotted_names() -> None:
    values = {"seed": 1, "grpo": {"loss": {"kl_coef": 0.1}, "arms": ["a", {"b": 1}], "none": {}}}
    assert list(flatten(values).items()) == [
        ("seed", 1),
        ("grpo.loss.kl_coef", 0.1),
        ("grpo.arms", ["a", {"b": 1}]),
    ]
    assert flatten(values, keep_empty=True)["grpo.none"] == {}
    assert flatten({"a": 1}, "cluster") == {"cluster.a": 1}
    assert flatten({}) == {}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[rollout]\ntimeout_s = inf", "rollout.timeout_s = inf"),
        ("[[terms]]\nparams = { limits = [1.0, nan] }", "terms.0.params.limits.1 = nan"),
    ],
)
def test_a_number_that_json_lacks_is_refused_by_name(tmp_path: Path, text: str, name: str) -> None:
    """run.json holds the recipe: as null it would be another one."""
    path = tmp_path / "recipe.toml"
    path.write_text(f'model = "m"\n{text}\n')
    with pytest.raises(ConfigError, match=f"{re.escape(name)}; give a finite number"):
        load_recipe(Recipe, path, [])
