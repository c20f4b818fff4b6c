"""The command simulate, from its options to its table and its file."""

import json
from pathlib import Path

import pytest

from cluster.cli import main

ROOT = Path(__file__).parents[4]
RECIPE = str(ROOT / "recipes/smarthome-7b.toml")
CPU_RECIPE = str(ROOT / "recipes/demo.toml")
GIVEN = ("--time", "decode_step_s=0.01", "--time", "response_length=100")
SLOW = ("--time", "learner_s_per_step=60", "--time", "engine_start_s=5")
SHORT = ("--steps", "3", "--no-limits")


def simulated(*options: str, target: Path) -> dict:
    assert main(["simulate", *options, *SHORT, "--json", str(target)]) == 0
    return json.loads(target.read_text())


def test_a_known_model_on_gpus_is_estimated_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    written = simulated(RECIPE, "--workers", "16", target=tmp_path / "s.json")
    assert written["run"]["workers"] == 16
    assert written["run"]["num_steps"] == 3
    assert "not measured" in capsys.readouterr().out.replace("\n", " ")
    # 7B in bfloat16: 16.6 GB of weights, read at 70% of 3350 GB/s for a token
    assert written["timings"]["weights_gb"] == pytest.approx(16.6, abs=0.2)
    assert written["timings"]["decode_step_s"] == pytest.approx(0.0071, abs=0.0002)


def test_what_limits_a_run_is_said_with_what_each_change_gains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = [RECIPE, *GIVEN, *SLOW, "--steps", "4", "--json", str(tmp_path / "s.json")]
    assert main(["simulate", *options]) == 0
    written = json.loads((tmp_path / "s.json").read_text())
    gains = {change["part"]: change["gain"] for change in written["changes"]}
    assert gains["the learner"] > 0.5
    assert abs(gains["the number of workers"]) < 0.05
    assert "groups_per_step = 128" in written["limit"]  # a step of twice the groups costs the same
    assert "limit: " in capsys.readouterr().out


def test_room_for_more_workers_later_is_used(tmp_path: Path):
    options = ("--workers", "2", "--room", "30s=6", *GIVEN, *SLOW)
    assert simulated(RECIPE, *options, target=tmp_path / "s.json")["run"]["restarts"] == 4


def test_the_recipes_least_number_of_workers_ends_a_run_as_it_would_a_real_one(tmp_path: Path):
    options = ("--workers", "4", "--set", "rollout.min_workers=3", "--room", "30s=1", *GIVEN, *SLOW)
    soon = ("--set", "cluster.start_timeout_s=20")
    ended = simulated(RECIPE, *options, *soon, target=tmp_path / "s.json")["run"]["ended"]
    assert "rollout.min_workers=3" in ended


def test_engines_that_share_gpus_with_ranks_are_simulated_in_any_number(tmp_path: Path):
    pairs = ("rollout.num_gpus=0.5", "learner.num_gpus=0.5", "learner.num_ranks=8")
    settings = [word for setting in pairs for word in ("--set", setting)]
    run = simulated(RECIPE, "--workers", "8", *settings, *GIVEN, target=tmp_path / "s.json")["run"]
    assert (run["workers"], run["num_steps"]) == (8, 3)


def test_failures_are_counted_and_their_cost_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ("--worker-mtbf", "2min", "--hang-frac", "0", *GIVEN, *SLOW)
    written = simulated(RECIPE, "--workers", "8", *options, target=tmp_path / "s.json")
    assert written["run"]["faults"]["engine_died"] > 0
    assert 0 < written["run"]["effective_training_time_ratio"] <= 1
    assert "effective training time" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--workers", "0"], "from 1 to 20,000"),
        (["--steps", "many"], "from 1 to 100,000"),
        (["--time", "reward=1"], "did you mean 'reward_s'?"),
        (["--time", "reward_s=fast"], "NAME=NUMBER"),
        (["--time", "decode_step_s=-1"], "decode_step_s"),
        (["--time", "response_length=5000"], "rollout.max_response_length=2048"),
        (["--worker-mtbf", "24"], "90s, 15min, 12h or 30d"),
        (["--worker-mtbf", "0h"], "90s, 15min, 12h or 30d"),
        (["--room", "2h"], "TIME=WORKERS"),
        (["--room", "2=20"], "90s, 15min, 12h or 30d"),
        (["--hang-frac", "1.5"], "a share from 0 to 1"),
        (["--gpu-tflops", "0"], "more than 0"),
        (["--from", "no/such/run"], "there is no run in no/such/run"),
        (["--set", "grpo.groups_per_step=64000", "--steps", "1000"], "lower --steps"),
        (["--timeline", f"{RECIPE}/t", *GIVEN], "give --timeline a folder"),
        (["--json", f"{RECIPE}/s.json", *GIVEN, *SHORT], "cannot write"),
    ],
)
def test_a_wrong_option_is_refused_with_what_was_expected(
    options: list[str], named: str, capsys: pytest.CaptureFixture[str]
):
    try:
        status = main(["simulate", RECIPE, *options])
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert named in capsys.readouterr().err


def test_a_recipe_on_cpus_needs_a_measured_run(capsys: pytest.CaptureFixture[str]):
    assert main(["simulate", CPU_RECIPE]) == 2
    assert "give --from RUN" in capsys.readouterr().err
    short = ("--time", "decode_step_s=0.01", "--time", "response_length=20")
    assert main(["simulate", CPU_RECIPE, *short, *SHORT]) == 0


def test_a_recipe_without_grpo_has_no_loop_to_simulate(capsys: pytest.CaptureFixture[str]):
    stages = 'stages=[{name="a", kind="sft"}]'
    assert main(["simulate", RECIPE, "--set", stages, *GIVEN]) == 2
    assert "has no stage that trains by GRPO" in capsys.readouterr().err
