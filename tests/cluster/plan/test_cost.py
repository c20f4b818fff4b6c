"""What a run took, scaled to a plan."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from cluster.config.recipe import RunConfig, read_recipe
from cluster.plan.cost import Cost, estimate
from cluster.plan.run_plan import make_plan

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "recipes/demo.toml"
STAGES = ("base", "coldstart", "grpo", "calibrated")
LABELS = ("relapse", "undo", "repeat", "zigzag", "varied")
CLIPS = {"train": 600, "cal": 600, "test": 300, "val": 100}
STEP = {"step": 5.0, "update_actor": 2.0, "update_weights": 0.5, "archive": 0.25}

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The demo's recipe over a manifest of the demo's size."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "clip.mp4").touch()
    rows = [
        {
            "id": f"{split}-{index}",
            "video": "clip.mp4",
            "label": LABELS[index % 5],
            "split": split,
            "trace": "<think>a</think><answer>undo</answer>"
            if split == "train" and index < 32
            else None,
        }
        for split, count in CLIPS.items()
        for index in range(count)
    ]
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"data.manifest={path}", f"model={ROOT / 'cluster/demo/base'}"]


def grpo_rows(steps: range, attempt: int = 0) -> Rows:
    return [
        {
            "stage": "grpo",
            "step": step,
            "attempt": attempt,
            "time": 1000.0 + 5 * step,
            "response_length/mean": 16.0,
            **{f"timing_s/{name}": seconds for name, seconds in STEP.items()},
            **({} if step % 10 else {"timing_s/save": 0.5}),
        }
        for step in steps
    ]


def update_rows(stage: str, steps: range, attempt: int = 0) -> Rows:
    """A quarter of a second each."""
    return [
        {"stage": stage, "step": step, "attempt": attempt, "time": 0.25 * step} for step in steps
    ]


def finished_run(
    folder: Path, config: RunConfig, rows: Rows | None = None, **seconds: float
) -> Path:
    """A run of the demo: 160 + 80 + 150 updates; ``seconds`` of its stages."""
    seconds = {"base": 30.0, "coldstart": 70.0, "grpo": 430.0, "calibrated": 307.5} | seconds
    if rows is None:
        rows = update_rows("coldstart", range(1, 161)) + grpo_rows(range(1, 81))
        rows += update_rows("calibrated", range(1, 151))
    run = folder / "run"
    figures: dict[str, Any] = {"num_samples": 300}
    results: dict[str, dict[str, Any]] = {
        "base": {"evaluation": figures},
        "coldstart": {"evaluation": figures, "num_traces": 32},
        "grpo": {"evaluation": figures},
        "calibrated": {"verdict": figures, "traces": {"num_traces": 1800}, "num_rollouts": 4250},
    }
    for stage, result in results.items():
        (run / "stages" / stage).mkdir(parents=True)
        done = {**result, "seconds": seconds[stage]}
        (run / "stages" / stage / "done.json").write_text(json.dumps(done))
    (run / "run.json").write_text(config.model_dump_json())
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def expected(settings: list[str], run: Path, *more: str, price: float | None = None) -> Cost:
    config = read_recipe(DEMO, [*settings, *more])
    return estimate(make_plan(config, STAGES), config, run, price)


def seconds_of(cost: Cost) -> dict[str, float | None]:
    return {stage.name: stage.seconds for stage in cost.stages}


@pytest.fixture
def run(settings: list[str], tmp_path: Path) -> Path:
    return finished_run(tmp_path, read_recipe(DEMO, settings))


def test_the_same_recipe_is_expected_to_take_what_it_took(settings: list[str], run: Path):
    cost = expected(settings, run)
    assert seconds_of(cost) == {"base": 30, "coldstart": 70, "grpo": 430, "calibrated": 307.5}
    assert cost.seconds == 837.5
    assert cost.is_whole


def test_every_kind_of_work_grows_with_its_own_count(settings: list[str], run: Path):
    more = ("grpo.num_steps=160", "grpo.save_every=20", "calibrate.num_traces=8")
    cost = expected(settings, run, *more)
    work = {(part.stage, part.work): part.seconds for part in cost.parts}
    assert work["grpo", "rollouts and rewards"] == 2 * (80 * (5 - 2 - 0.5 - 0.25) - 8 * 0.5)
    assert work["grpo", "checkpoints"] == 4  # twice the steps, half as often
    assert work["grpo", "updates"] == 2 * 160
    assert work["grpo", "weights to engines"] == 2 * 40
    assert work["grpo", "measuring"] == 30  # as many clips as before
    assert work["calibrated", "training"] == 2 * 37.5
    assert work["calibrated", "traces, head, measuring"] == pytest.approx(
        270 / 4550 * (3600 + 250 + 4400 + 300)
    )
    assert seconds_of(cost)["base"] == 30


def test_a_resumed_stage_counts_all_its_steps_once(settings: list[str], tmp_path: Path):
    """done.json has the seconds of the attempt that ended it: 70 of 80 steps, and measuring."""
    rows = update_rows("coldstart", range(1, 161)) + grpo_rows(range(1, 19))
    rows += grpo_rows(range(11, 81), attempt=1) + update_rows("calibrated", range(1, 151), 1)
    config = read_recipe(DEMO, settings)
    cost = expected(settings, finished_run(tmp_path, config, rows, grpo=70 * 5 + 30.0))
    assert seconds_of(cost)["grpo"] == 80 * 5 + 30


def test_a_line_that_a_crash_has_cut_is_passed_over(settings: list[str], run: Path):
    whole = expected(settings, run).seconds
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "grpo", "st')
    assert expected(settings, run).seconds == whole


def test_gpu_hours_and_price_follow_from_the_gpus_of_the_plan(settings: list[str], run: Path):
    cost = expected(settings, run, "rollout.num_gpus=1", "learner.num_gpus=3", price=2.5)
    assert cost.gpus == 4
    assert cost.gpu_hours == pytest.approx(4 * 837.5 / 3600)
    assert cost.price == pytest.approx(2.5 * 4 * 837.5 / 3600)


def test_what_is_not_scaled_is_named(settings: list[str], run: Path):
    cost = expected(settings, run, "model=/models/Qwen2.5-VL-7B-Instruct", "video.max_frames=32")
    (said,) = [text for text in cost.assumptions if text.startswith("only counts")]
    assert "Qwen2.5-VL-7B-Instruct here" in said
    assert "video.max_frames = 12 there, 32 here" in said
    assert not [text for text in expected(settings, run).assumptions if "only counts" in text]


def test_a_stage_that_was_not_measured_makes_the_total_a_lower_bound(
    settings: list[str], run: Path
):
    (run / "stages/calibrated/done.json").unlink()
    cost = expected(settings, run)
    assert seconds_of(cost)["calibrated"] is None
    assert cost.seconds == 530
    assert not cost.is_whole
    assert any("calibrated: unknown" in text for text in cost.assumptions)


def test_without_a_manifest_only_grpo_s_own_work_is_known(settings: list[str], run: Path):
    cost = expected(settings, run, "data.manifest=/nowhere/m.jsonl")
    known = {part.work for part in cost.parts if part.seconds is not None}
    assert known == {
        "rollouts and rewards",
        "updates",
        "archive",
        "weights to engines",
        "checkpoints",
    }
    assert not cost.is_whole


def said(
    capsys: pytest.CaptureFixture[str], settings: list[str], *words: str
) -> tuple[int, str, str]:
    overrides = [word for setting in settings for word in ("--set", setting)]
    status = main(["plan", str(DEMO), *overrides, *words])
    return status, *capsys.readouterr()


def test_the_command_shows_and_writes_it(
    settings: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = (
        "--measured",
        str(run),
        "--price-per-gpu-hour",
        "2",
        "--json",
        str(tmp_path / "p.json"),
    )
    status, out, _ = said(capsys, settings, *words)
    assert status == 0
    assert "in all: 838 s" in out
    assert "price 0.00" in out
    assert json.loads((tmp_path / "p.json").read_text())["cost"]["seconds"] == 837.5


def test_a_run_without_timings_is_refused(
    settings: list[str], run: Path, capsys: pytest.CaptureFixture[str]
):
    for stage in STAGES:
        (run / "stages" / stage / "done.json").unlink()
    status, out, err = said(capsys, settings, "--measured", str(run))
    assert (status, out) == (2, "")
    assert "has no timings" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--measured", "/nowhere/run"), "there is no run in /nowhere/run"),
        (("--price-per-gpu-hour", "2"), "needs --measured"),
    ],
)
def test_a_cost_that_cannot_be_told_is_refused(
    settings: list[str], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
):
    status, _, err = said(capsys, settings, *words)
    assert status == 2
    assert message in err


def validated(stage: str, *steps: int) -> Rows:
    """Two seconds and 100 clips each, after the step's own line."""
    return [
        {
            **{"stage": stage, "step": step, "attempt": 0, "time": 0.25 * step + 0.1},
            **{"val/accuracy": 0.5, "val/num_clips": 100, "val/seconds": 2.0},
        }
        for step in steps
    ]


def test_validations_are_no_updates_and_scale_with_the_clips_they_ask_about(
    settings: list[str], tmp_path: Path
):
    rows = update_rows("coldstart", range(1, 161)) + validated("coldstart", 0, 80, 160)
    for row in rows:
        row["time"] += 2.0 * (row["step"] > 80)  # after the validation at step 80
    rows += [{**row, "timing_s/validate": 0.5} for row in grpo_rows(range(1, 81))]
    rows += validated("grpo", 0, 40, 80) + update_rows("calibrated", range(1, 151))
    config = read_recipe(DEMO, settings)
    run = finished_run(tmp_path, config, rows, coldstart=70.0 + 6.0)
    cost = expected(settings, run, "validate.every=40", "calibrate.validate.every=0")
    work = {(part.stage, part.work): part.seconds for part in cost.parts}
    assert work["coldstart", "training"] == pytest.approx(40)
    assert work["coldstart", "measuring"] == pytest.approx(30)
    assert work["coldstart", "validations"] == pytest.approx(5 / 3 * 6)  # 0, 40, 80, 120, 160
    assert work["grpo", "validations"] == pytest.approx(40)  # waited for: as many as there
    assert seconds_of(cost)["grpo"] == pytest.approx(430)


def test_validations_that_the_measured_run_did_not_make_are_named(settings: list[str], run: Path):
    cost = expected(settings, run, "grpo.validate.every=40")
    assert "validations of grpo, calibrated are not counted: none there" in cost.assumptions
    assert cost.is_whole
