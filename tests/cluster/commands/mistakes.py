"""Mistakes in recipes and data, each with what is said of it: `run` and `check` must refuse all."""

from collections.abc import Callable
from typing import Any

Rows = list[dict[str, Any]]


def spoil_label(rows: Rows) -> None:
    rows[0]["label"] = "relaps"


def spoil_id(rows: Rows) -> None:
    rows[1]["id"] = rows[0]["id"]


def spoil_path(rows: Rows) -> None:
    rows[0]["video"] = "nowhere.mp4"


def spoil_split(rows: Rows) -> None:
    rows[0]["split"] = "training"


def spoil_column(rows: Rows) -> None:
    del rows[0]["label"]


BAD_ROWS: list[tuple[Callable[[Rows], None], str]] = [
    (spoil_label, "did you mean 'relapse'"),
    (spoil_id, "already used"),
    (spoil_path, "nowhere.mp4"),
    (spoil_split, "'training'"),
    (spoil_column, "no 'label'"),
]

BAD_SETTINGS = [
    ("grpo.num_step=3", "did you mean 'num_steps'"),
    ("grpo.num_steps=many", "grpo.num_steps = 'many'"),
    ("data.manifest=/nowhere/m.jsonl", "/nowhere/m.jsonl"),
    ("model=/nowhere/model", "no model directory /nowhere/model"),
    ("rollout.max_prompt_length=64", "rollout.max_prompt_length"),
    ("rollout.max_response_length=4000", "the model has positions for 4096"),
    ("video.min_pixels=100000000", "set both in the recipe"),
    ("reward.terms=[{function='mine.py:score'}]", "mine.py"),
    ("seed", "expected key=value"),
]


def drop_split(split: str) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[:] = [row for row in rows if row["split"] != split]

    return change


def drop_traces(rows: Rows) -> None:
    for row in rows:
        row["trace"] = None


LACKING_DATA: list[tuple[Callable[[Rows], None], str]] = [
    (drop_split("test"), "no samples with split='test'"),
    (drop_split("cal"), "no samples with split='cal'"),
    (drop_split("train"), "no samples with split='train'"),
    (drop_traces, "no train sample has a trace"),
]
