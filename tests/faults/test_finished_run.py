"""The checker finds what it is for: a lost group, one trained twice, a failure taken for a zero."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.finished_run import problems_of
from tests.groups import make_group, make_trace
from wire.archive.archive import Archive
from wire.types import PolicyVersion, Purpose

STEPS, GROUPS = 2, 2


def write_run(
    folder: Path, places: dict[int, int], ends: tuple[int, ...] = (2, 4), reward: float = 1.0
) -> Path:
    """A run of two steps; ``places``: version of the group that was written for each place."""
    with Archive(folder / "archive", 0) as archive:
        for place, version in places.items():
            archive.append(
                make_group(
                    make_trace(reward),
                    group_id=f"grpo/{place:08d}",
                    purpose=Purpose.TRAIN,
                    policy_version=PolicyVersion(attempt=0, step=version),
                )
            )
    rows: list[dict[str, Any]] = [
        {"stage": "grpo", "step": step, "attempt": 0, "rollout/next_place": float(end)}
        for step, end in enumerate(ends, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def problems(run_dir: Path) -> list[str]:
    return problems_of(run_dir, steps=STEPS, groups=GROUPS, max_staleness=1)


def test_a_whole_run_has_no_problem(tmp_path: Path):
    assert not problems(write_run(tmp_path, {0: 1, 1: 1, 2: 1, 3: 2}))


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        ({"places": {0: 1, 1: 1, 2: 1}}, "place 3 of step 2 is not in the archive"),
        ({"places": {0: 1, 1: 1, 2: 1, 3: 0}}, "place 3 of step 2 was written with version 0.0"),
        ({"places": {0: 1, 1: 1, 2: 1, 3: 3}}, "place 3 of step 2 was written with version 0.3"),
        (
            {"places": {0: 1, 1: 1, 2: 1, 3: 2}, "ends": (2, 3)},
            "step 2 trained the places 2 to 3, not 2 of them",
        ),
        ({"places": {0: 1, 1: 1}, "ends": (2,)}, "steps [1] were logged, not 1 to 2"),
        (
            {"places": {0: 1, 1: 1, 2: 1, 3: 2}, "reward": 0.0},
            "a trace of grpo/00000000 has reward 0",
        ),
    ],
)
def test_what_went_wrong_is_named(tmp_path: Path, run: dict[str, Any], problem: str):
    assert problem in problems(write_run(tmp_path, **run))


def test_a_step_that_was_logged_twice_is_named(tmp_path: Path):
    write_run(tmp_path, {0: 1, 1: 1, 2: 1, 3: 2})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    assert "step (0, 2) was logged 2 times" in problems(tmp_path)


def test_a_group_without_a_trace_is_named(tmp_path: Path):
    write_run(tmp_path, {0: 1, 1: 1, 2: 1})
    with Archive(tmp_path / "archive", 1) as archive:
        version = PolicyVersion(attempt=0, step=1)
        archive.append(make_group(group_id="grpo/00000003", policy_version=version))
    assert "grpo/00000003 has no trace: no frames" in problems(tmp_path)
