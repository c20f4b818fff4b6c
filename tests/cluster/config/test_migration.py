"""Keys of other systems: every key of ours that the tables name exists, and a recipe that uses one
of theirs is told."""

import re
from pathlib import Path

import pytest

from cluster.config.migration.hint import SYSTEMS, hint
from cluster.config.recipe import RunConfig, read_recipe
from cluster.docs.recipes_page import recipe_keys
from wire.errors import ConfigError

ROOT = Path(__file__).parents[3]
OURS = set(recipe_keys(RunConfig))
SECTIONS = {key.partition(".")[0] for key in OURS if "." in key}
ROWS = [(system, row) for system, rows in SYSTEMS.items() for row in rows]


def test_a_key_of_theirs_leads_to_a_key_that_is_there_or_to_words():
    assert [row for _, row in ROWS if not (row.ours in OURS or (not row.ours and row.note))] == []


def test_keys_that_a_note_names_are_there():
    for _, row in ROWS:
        named = re.findall(r"[a-z_]+(?:\.[a-z_]+)+", re.sub(r"[\w/]+/[\w.]+", "", row.note))
        keys = [name for name in named if name.partition(".")[0] in SECTIONS]
        assert [key for key in keys if key not in OURS] == [], row


def test_no_system_names_a_key_twice():
    for rows in SYSTEMS.values():
        names = [row.theirs for row in rows]
        assert len(set(names)) == len(names)


def test_none_of_theirs_shadows_a_key_of_ours_with_another_meaning():
    assert [(row.theirs, row.ours) for _, row in ROWS if row.theirs in OURS - {row.ours}] == []


def refused(tmp_path: Path, text: str, *settings: str) -> str:
    recipe = tmp_path / "my.toml"
    recipe.write_text(f'extends = "{ROOT / "recipes/demo.toml"}"\n{text}')
    with pytest.raises(ConfigError) as caught:
        read_recipe(recipe, list(settings))
    return str(caught.value).partition("my.toml: ")[2]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "num_generations=8",
            "unknown key 'num_generations' (TRL): here it is rollout.group_size",
        ),
        (
            "actor_rollout_ref.rollout.n=8",
            "unknown key 'actor_rollout_ref.rollout.n' (verl): here it is rollout.group_size",
        ),
        (
            "data.train_batch_size=8",
            "unknown key 'data.train_batch_size' (verl): here it is grpo.groups_per_step "
            "(in clips, as in verl)",
        ),
        (
            "critic.optim.lr=1e-5",
            "unknown key 'critic.optim.lr' (verl): not here: GRPO has no critic",
        ),
        (
            "ckpt.load_enable=true",
            "unknown key 'ckpt.load_enable' (OpenRLHF): not here: `--resume`",
        ),
        ("video.video_fps=2", "unknown key 'video.video_fps' (Qwen): here it is video.fps"),
        ("FPS=2", "unknown key 'FPS' (Qwen): here it is video.fps"),
        (
            "+trainer.save_freq=5",
            "unknown key '+trainer.save_freq' (verl): here it is grpo.save_every",
        ),
    ],
)
def test_a_key_of_theirs_is_answered_with_ours(tmp_path: Path, setting: str, message: str):
    assert refused(tmp_path, "", setting) == message


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("grpo.num_generations=8", "rollout.group_size"),
        ("rollout.n=8", "rollout.group_size"),
        ("grpo.optim.lr=1e-6", "grpo.optim.learning_rate"),
        ("coldstart.learning_rate=1e-5", "coldstart.optim.learning_rate"),
        ("calibrate.lr=1e-5", "calibrate.learning_rate"),
    ],
)
def test_a_key_of_theirs_is_known_in_a_section_of_ours(tmp_path: Path, setting: str, where: str):
    assert refused(tmp_path, "", setting).endswith(f": here it is {where}")


def test_a_table_of_theirs_is_answered_key_by_key_up_to_five(tmp_path: Path):
    text = """
[trainer]
total_training_steps = 3
save_freq = 3
test_freq = 3
nnodes = 1
logger = "wandb"
resume_mode = "auto"
balance_batch = true
"""
    message = refused(tmp_path, text)
    assert message.count("unknown key 'trainer.") == 5
    assert message.endswith("; and 2 more, see docs/migration.md")


@pytest.mark.parametrize(
    ("setting", "advice"),
    [("grpo.steps=3", "did you mean 'num_steps'?"), ("rollout.path=3", "known here: ")],
)
def test_a_word_that_says_little_gets_the_nearest_name_as_before(
    tmp_path: Path, setting: str, advice: str
):
    assert advice in refused(tmp_path, "", setting)


def test_a_key_that_nobody_has_gets_no_hint():
    assert hint("grpo.nonsense", 1, ["num_steps"]) is None
    assert hint("nonsense", {"a": 1, "b": {"c": 2}}, []) is None
