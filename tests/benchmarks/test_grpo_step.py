"""The comparison with TRL: that it compares equal work, and that it runs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.grpo_figures import Measured, check_fair, rows_of
from tests.benchmarks.grpo_ours import OurStep
from tests.benchmarks.grpo_step import SMALLEST
from tests.benchmarks.grpo_trl import TrlStep

ROOT = Path(__file__).parents[2]


def measured(ours: OurStep, theirs: TrlStep, changed: float = 0.1) -> Measured:
    return Measured(
        size=SMALLEST,
        ours=[ours, ours],
        trl={"generate": [theirs, theirs]},
        changed={"ours": 0.1, "trl_generate": changed},
        busy_while_waiting={"ours": 0.0, "trl": 0.0},
        settings={},
    )


def our_step() -> OurStep:
    return OurStep(
        seconds=2.0,
        generation=1.0,
        learning=0.5,
        handoff=0.5,
        prompt_tokens=90,
        response_tokens=SMALLEST.rollouts * SMALLEST.response,
        loss=0.1,
        reward_std=0.3,
    )


def trl_step() -> TrlStep:
    return TrlStep(
        seconds=8.0,
        generation=3.0,
        old_logprobs=1.0,
        preparation=0.5,
        prompt_tokens=90,
        response_tokens=SMALLEST.rollouts * SMALLEST.response,
        rollouts=SMALLEST.rollouts,
        loss=0.0,
        reward_std=0.3,
        logprob_gap=0.0,
    )


def test_a_step_of_four_times_the_seconds_gives_a_ratio_of_four() -> None:
    values = {row.name: row.value for row in rows_of(measured(our_step(), trl_step()))}
    assert values["smallest/trl_generate/ratio"] == 4.0
    assert values["smallest/trl_generate/ratio_of_learning"] == 3.5 / 0.5
    assert values["smallest/trl_generate/ratio_without_old_logprobs"] == 3.5


def test_equal_work_is_fair() -> None:
    check_fair(measured(our_step(), trl_step()))


@pytest.mark.parametrize(
    "change",
    [
        {"response_tokens": 3},
        {"prompt_tokens": 91},
        {"loss": float("nan")},
        {"reward_std": 0.0},
    ],
)
def test_unequal_or_useless_work_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(AssertionError):
        check_fair(measured(our_step(), replace(trl_step(), **change)))


def test_a_side_whose_weights_stay_is_refused() -> None:
    with pytest.raises(AssertionError, match="trl_generate has trained nothing"):
        check_fair(measured(our_step(), trl_step(), changed=0.0))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(580)
def test_both_sides_train_in_one_run(tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    words = ["--sizes", "smallest", "--modes", "generate", "--json", str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.grpo_step", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    assert target.exists(), done.stdout[-2000:] + done.stderr[-4000:]
    rows = {row["name"]: row for row in json.loads(target.read_text())}
    assert set(rows["smallest/trl_generate/ratio"]) == {"name", "value", "unit", "limit", "goal"}
    for name in ("ours", "trl_generate"):
        assert rows[f"smallest/{name}/rollouts_per_s"]["value"] > 0
        assert 0 < rows[f"smallest/{name}/largest_weight_change"]["value"] < 0.01
