"""The likeliest mistakes of somebody new who knows verl or TRL, each through the real command line.

Every one ends within seconds, before Ray or an engine starts (the last two need a Ray to find out):
exit status 2, and on stderr one line that begins with ``error:`` and says what to do.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cluster.inputs.samples
from cluster.actors import placement
from cluster.cli import main

ROOT = Path(__file__).parents[3]

Rows = list[dict[str, Any]]
Write = Callable[..., Path]
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for a Ray fails the test: whatever is said must have been said before."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a Ray was about to start")

    monkeypatch.setattr(placement, "connect", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def check_one_line(status: int, said: str) -> str:
    assert status == 2, said
    assert re.fullmatch(r"error: [^\n]+\n", said), said
    assert "Traceback" not in said
    assert not re.search(r"[.;:]\s*$", said), "ends as half a sentence"
    return said


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command line; returns its one line."""

    def check(*words: str | Path) -> str:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:  # while parsing
            status = int(error.code or 0)
        return check_one_line(status, capsys.readouterr().err)

    return check


@pytest.fixture
def refused_run(refused: Refused, recipe: Write, tmp_path: Path) -> Refused:
    """Of ``run`` with settings over a good recipe."""

    def check(*settings: str, change: Callable[[Rows], None] | None = None) -> str:
        overrides = [word for setting in settings for word in ("--set", setting)]
        return refused("run", recipe(change), "--run-dir", tmp_path / "run", *overrides)

    return check


# --- 1, 2: the command


def test_01_a_mistyped_command(refused: Refused):
    assert "did you mean 'run'? see deepintuit --help" in refused("runn", "recipes/demo.toml")


def test_02_no_recipe(refused: Refused):
    assert "required: recipe; see deepintuit run --help" in refused("run")


# --- 3 to 5: the recipe's file


def test_03_a_wrong_path(refused: Refused, tmp_path: Path):
    assert "nothing.toml: No such file" in refused("run", tmp_path / "nothing.toml")
    assert "Is a directory; give the path of a .toml file" in refused("run", tmp_path)


def test_04_a_yaml_recipe(refused: Refused, tmp_path: Path):
    path = tmp_path / "grpo.yaml"
    path.write_text("data:\n  train_files: a.parquet\n")
    assert "recipes are TOML" in refused("run", path)


def test_05_a_typing_error_in_toml_is_named_with_its_line(refused: Refused, recipe: Write):
    path = recipe()
    path.write_text(path.read_text().replace("[rollout]", "[rollout"))
    found = refused("run", path)
    assert "is not valid TOML" in found
    assert f"line {path.read_text().splitlines().index('[rollout') + 1}," in found


# --- 6 to 11: keys and values


def test_06_a_mistyped_key(refused_run: Refused):
    assert "unknown key 'grpo.num_step'; did you mean 'num_steps'?" in refused_run(
        "grpo.num_step=3"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "actor_rollout_ref.rollout.n=8",
            "unknown key 'actor_rollout_ref.rollout.n' (verl): here it is rollout.group_size",
        ),
        ("rollout.n=8", "rollout.group_size"),
        ("data.train_files=a.parquet", "here it is data.manifest"),
        ("trainer.total_epochs=3", "here it is grpo.num_steps"),
        ("custom_reward_function.path=a.py", "reward.terms"),
    ],
)
def test_07_a_key_of_verl_is_answered_with_ours(refused_run: Refused, setting: str, message: str):
    assert message in refused_run(setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("num_generations=8", "unknown key 'num_generations' (TRL): here it is rollout.group_size"),
        ("grpo.learning_rate=1e-6", "here it is grpo.optim.learning_rate"),
        ("reward_funcs=['a']", "reward.terms"),
    ],
)
def test_08_a_key_of_trl_is_answered_with_ours(refused_run: Refused, setting: str, message: str):
    assert message in refused_run(setting)


def test_09_a_value_of_the_wrong_type_is_told_what_the_key_means(refused_run: Refused):
    found = refused_run("rollout.group_size=eight")
    assert "rollout.group_size = 'eight': expected a valid integer" in found
    assert "(Traces written per clip" in found


def test_10_a_group_of_one(refused_run: Refused):
    found = refused_run("rollout.group_size=1")
    assert "rollout.group_size = 1: expected a number greater than or equal to 2" in found
    assert "GRPO compares them with each other" in found


def test_11_a_batch_that_does_not_divide(refused_run: Refused):
    found = refused_run("grpo.groups_per_step=10", "grpo.groups_per_update=4")
    assert "groups_per_step=10 is no multiple of groups_per_update=4; change one of them" in found


# --- 12 to 15: data


def test_12_no_manifest(refused_run: Refused):
    found = refused_run("data.manifest=/nowhere/train.jsonl")
    assert "/nowhere/train.jsonl" in found
    assert "give the path of a .jsonl or .parquet file" in found


def test_13_a_manifest_with_other_columns_or_in_another_format(
    refused_run: Refused, tmp_path: Path
):
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps({"path": "a.mp4", "caption": "x"}) + "\n")
    assert "every row needs id, video, label, split" in refused_run(f"data.manifest={path}")
    table = tmp_path / "kinetics.csv"
    table.write_text("path,label\na.mp4,x\n")
    assert "deepintuit import makes one" in refused_run(f"data.manifest={table}")


def set_in_first_row(**values: str) -> Callable[[Rows], None]:
    return lambda rows: rows[0].update(values)


def drop_traces(rows: Rows) -> None:
    for row in rows:
        row["trace"] = None


def test_14_a_label_that_is_not_in_the_set(refused_run: Refused):
    found = refused_run(change=set_in_first_row(label="relaps"))
    assert "unknown label 'relaps'; did you mean 'relapse'?" in found


def test_15_a_video_that_is_not_there_or_is_none(refused_run: Refused, tmp_path: Path):
    found = refused_run(change=set_in_first_row(video="nowhere.mp4"))
    assert "nowhere.mp4 does not exist" in found
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video at all")
    allow_none = "data.max_quarantine_frac=0"  # by default a run goes on without a tenth of them
    assert "broken.mp4" in refused_run(allow_none, change=set_in_first_row(video=str(broken)))


def test_15_faults_of_the_data_are_said_before_a_model_is_fetched(refused_run: Refused):
    hub = "model=nobody/no-such-model"
    found = refused_run(hub, change=set_in_first_row(video="nowhere.mp4"))
    assert "nowhere.mp4 does not exist" in found
    assert "nobody" not in found


def test_16_no_trace_for_the_cold_start(refused_run: Refused):
    assert "no train sample has a trace" in refused_run(change=drop_traces)


# --- 17, 18: the model


def test_17_a_model_that_is_not_here(refused_run: Refused, tmp_path: Path):
    assert "nobody/no-such-model" in refused_run("model=nobody/no-such-model")
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused_run(f"model={tmp_path / 'empty'}")


def test_18_a_model_of_another_kind(refused_run: Refused, tmp_path: Path):
    (tmp_path / "llama").mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (tmp_path / "llama/config.json").write_text(json.dumps(config))
    found = refused_run(f"model={tmp_path / 'llama'}")
    assert "'llama'" in found
    assert "qwen2_5_vl" in found


def test_19_a_context_that_is_too_short_for_a_clip(refused_run: Refused):
    found = refused_run("rollout.max_prompt_length=64")
    assert "rollout.max_prompt_length is 64" in found


# --- 20: rewards


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("nowhere.py:score", "there is no file"),
        ("{file}:reward_func", "has no 'reward_func'; its functions: one, both"),
        ("{file}:one", "expected verl's (data_source, solution_str, ground_truth, extra_info"),
        ("{file}:both", "could be called in 2 ways"),
        ("acuracy", "did you mean 'accuracy'?"),
    ],
)
def test_20_a_reward_function_that_cannot_be_used(
    refused_run: Refused, tmp_path: Path, term: str, message: str
):
    file = tmp_path / "mine.py"
    file.write_text("def one(text):\n    return 1.0\n\ndef both(solution_str, completions): ...\n")
    found = refused_run(f"reward.terms=[{{function='{term.format(file=file)}'}}]")
    assert message in found
    assert "too short" not in found
    assert "at least 1 item" not in found  # that follows from the mistake, and is none


# --- 21 to 24: the run directory


def test_21_a_run_directory_that_holds_a_run(refused: Refused, recipe: Write, tmp_path: Path):
    (tmp_path / "run/archive").mkdir(parents=True)
    found = refused("run", recipe(), "--run-dir", tmp_path / "run")
    assert "already holds a run; give --resume to go on with it, --overwrite" in found


def test_22_resuming_what_was_never_started(refused: Refused, recipe: Write, tmp_path: Path):
    found = refused("grpo", recipe(), "--run-dir", tmp_path / "other", "--resume")
    assert "there is no run in" in found
    assert "leave --resume out to start one" in found


def test_22_a_scheduler_gives_one_command_to_start_a_run_and_to_go_on_with_it(
    refused: Refused, recipe: Write, tmp_path: Path
):
    run = tmp_path / "run"
    words = ("run", recipe(), "--run-dir", run, "--auto-resume", "--set", "data.manifest=/no/such")
    assert "/no/such" in refused(*words), "it began, and the clips are looked for"
    assert (run / "run.json").exists()
    (run / "archive").mkdir()
    again = refused(*words, "--set", "seed=7")
    assert "seed" in again, "it would go on, and the recipe is another"


def test_23_a_run_directory_that_may_not_be_written(refused: Refused, recipe: Write):
    path = recipe()
    assert "cannot use /sys/kernel/run" in refused("run", path, "--run-dir", "/sys/kernel/run")
    assert "Not a directory" in refused("run", path, "--run-dir", path / "run")


def test_24_a_full_disk(refused: Refused, recipe: Write, tmp_path: Path):
    """A run that a check ended has left its recipe; /dev/full takes nothing more."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "run.json.partial").symlink_to("/dev/full")
    assert "full" in refused("run", recipe(), "--run-dir", run)


# --- 25, 26: the cluster, found out by a real Ray in a process of its own


def run_outside(path: Path, *settings: str, **environment: str) -> str:
    """``refused`` from a process of its own, within two minutes."""
    words = [sys.executable, "-m", "cluster.cli", "run", str(path)]
    words += ["--run-dir", str(path.parent / "run")]
    words += [word for setting in settings for word in ("--set", setting)]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | environment
    found = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    return check_one_line(found.returncode, found.stderr)


@pytest.mark.ray
@pytest.mark.slow
def test_25_gpus_on_a_machine_without(recipe: Write):
    found = run_outside(recipe(), "rollout.num_gpus=64")
    assert "64 GPUs in all" in found
    assert "lower rollout.num_workers, learner.num_ranks or their num_cpus / num_gpus" in found


@pytest.mark.ray
@pytest.mark.slow
def test_26_a_ray_that_does_not_answer(recipe: Write):
    found = run_outside(recipe(), RAY_ADDRESS="127.0.0.1:1")
    assert "no Ray answers at 127.0.0.1:1" in found
    assert "leave both out for a local Ray" in found


# --- what is no mistake of theirs


def test_ctrl_c_ends_with_one_line_that_says_how_to_go_on(recipe: Write, tmp_path: Path):
    path = recipe()
    words = [sys.executable, "-m", "cluster.cli", "run", str(path), "--run-dir", tmp_path / "run"]
    child = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run/run.json").exists():  # its checks have begun
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert re.fullmatch(
        r"(stopping [^\n]+\n)?interrupted before anything had started; start again with: [^\n]+\n",
        said,
    ), said


def break_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fall(*_: object) -> None:
        raise KeyError("grid")

    monkeypatch.setattr(cluster.inputs.samples, "read_manifest", fall)


def test_a_bug_of_ours_is_one_line_and_a_file_with_the_traceback(
    recipe: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    break_the_checks(monkeypatch)
    run = tmp_path / "run"
    assert main(["run", str(recipe()), "--run-dir", str(run)]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: this is a bug of deepintuit: KeyError: 'grid'; [^\n]+\n", said)
    (file,) = run.glob("bug-*.txt")
    assert str(file) in said
    text = file.read_text()
    assert text.startswith("deepintuit run ")
    assert "Traceback" in text
    assert "in fall" in text


def test_debug_shows_the_traceback_of_a_bug(
    recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    break_the_checks(monkeypatch)
    with pytest.raises(KeyError, match="grid"):
        main(["run", str(recipe()), "--run-dir", str(tmp_path / "run"), "--debug"])
    assert not list((tmp_path / "run").glob("bug-*.txt"))


def test_a_bug_before_there_is_a_run_leaves_its_file_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def fall(*_: object, **__: object) -> None:
        raise RuntimeError("one\ntwo")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("cluster.study.compare.compare_runs", fall)
    assert main(["compare", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    (file,) = tmp_path.glob("deepintuit-*/bug-*.txt")
    assert str(file) in said
    assert "two" in file.read_text()
