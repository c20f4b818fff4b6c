import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.cli import main
from cluster.driver.progress import console
from cluster.study.runner import Child, Study, child_command, fill_seed, plan_study, run_study
from tests.cluster.study.fake_study import fake_command
from tests.cluster.study.study_runs import write_data
from wire.errors import ConfigError, DataError, StudyFailed

ROOT = Path(__file__).parents[3]
RECIPE = """
model = "model"
labels = [{name = "a"}, {name = "b"}]
[data]
manifest = "MANIFEST"
"""


def make_study(folder: Path, *seeds: int, manifest: str = "data/manifest.jsonl", **more) -> Study:
    write_data(folder / "data")
    (folder / "recipe.toml").write_text(RECIPE.replace("MANIFEST", manifest))
    return Study(
        recipe=folder / "recipe.toml", directory=folder / "study", seeds=seeds or (1,), **more
    )


def log_of(study: Study, seed: int) -> list[str]:
    return (study.directory / f"seed-{seed}/log.txt").read_text().splitlines()


def processes(study: Study) -> list[tuple[int, str, int]]:
    lines = (study.directory / "processes.jsonl").read_text().splitlines()
    return [(row["seed"], row["verb"], row["status"]) for row in map(json.loads, lines)]


def test_every_seed_runs_its_stages_and_then_its_controls(tmp_path: Path):
    study = make_study(tmp_path, 1, 2)
    page = run_study(study, fake_command)
    assert processes(study) == [(s, verb, 0) for s in (1, 2) for verb in ("run", "controls")]
    assert log_of(study, 2)[0] == "run resume=False seed=2 manifest=data"
    assert page == study.directory / "results.md"
    assert json.loads((study.directory / "study.json").read_text())["about"]["seeds"] == [1, 2]


def test_a_seed_that_fails_is_named_and_the_others_go_on(tmp_path: Path):
    (tmp_path / "act-run-1").write_text("fail")
    study = make_study(tmp_path, 1, 2, results=tmp_path / "docs/page.md")
    failure = pytest.raises(StudyFailed, match="seed 1: run failed with status 1; mend")
    with console.capture() as said, failure:
        run_study(study, fake_command)
    assert processes(study) == [(1, "run", 1), (2, "run", 0), (2, "controls", 0)]
    assert "    the engine burnt down" in said.get()
    assert "Seed 1 did not finish: run failed" in (tmp_path / "docs/page.md").read_text()


def test_the_same_command_goes_on_and_skips_what_is_done(tmp_path: Path):
    (tmp_path / "act-run-2").write_text("fail")
    (tmp_path / "act-controls-1").write_text("fail")
    study = make_study(tmp_path, 1, 2)
    with pytest.raises(StudyFailed, match=r"seed 1: controls failed.*seed 2: run failed"):
        run_study(study, fake_command)
    (tmp_path / "act-run-2").unlink()
    (tmp_path / "act-controls-1").unlink()
    run_study(study, fake_command)
    assert processes(study)[3:] == [(1, "controls", 0), (2, "run", 0), (2, "controls", 0)]
    assert "run resume=True seed=2 manifest=data" in log_of(study, 2)
    total = json.loads((study.directory / "study.json").read_text())["about"]["seconds"]
    lines = (study.directory / "processes.jsonl").read_text().splitlines()
    assert total == pytest.approx(sum(json.loads(line)["seconds"] for line in lines))


def test_ctrl_c_ends_the_child_and_leaves_a_study_that_goes_on(tmp_path: Path):
    (tmp_path / "act-run-1").write_text("hang")
    study = make_study(tmp_path, 1)
    process = start(study)
    helper = int(wait_for(lambda: text_of(tmp_path / "helper")))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert "put away what was half done" in log_of(study, 1)
    wait_for(lambda: not runs(helper))  # what the child had started has ended too
    (tmp_path / "act-run-1").unlink()
    run_study(study, fake_command)
    assert processes(study) == [(1, "run", None), (1, "run", 0), (1, "controls", 0)]


def test_ctrl_c_again_kills_a_child_that_does_not_stop(tmp_path: Path):
    (tmp_path / "act-run-1").write_text("stubborn")
    process = start(make_study(tmp_path, 1))
    helper = int(wait_for(lambda: text_of(tmp_path / "helper")))
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    wait_for(lambda: not runs(helper))


def start(study: Study) -> subprocess.Popen[bytes]:
    """A study of seed 1 in a process of its own."""
    command = [sys.executable, "-m", "tests.cluster.study.fake_study", str(study.recipe)]
    return subprocess.Popen([*command, str(study.directory), "1"], cwd=ROOT)


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def test_two_studies_cannot_run_in_one_directory(tmp_path: Path):
    (tmp_path / "act-run-1").write_text("hang")
    study = make_study(tmp_path, 1)
    process = start(study)
    try:
        wait_for(lambda: text_of(tmp_path / "helper"))
        with pytest.raises(ConfigError, match="another process is running in"):
            run_study(study, fake_command)
        with pytest.raises(ConfigError, match="another study is running in"):
            run_study(make_study(tmp_path, 2), fake_command)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def test_a_changed_recipe_is_refused_before_anything_starts(tmp_path: Path):
    study = make_study(tmp_path, 1)
    run_study(study, fake_command)
    before = processes(study)
    with pytest.raises(ConfigError, match=r"started with another grpo\.num_steps"):
        run_study(make_study(tmp_path, 1, settings=("grpo.num_steps=3",)), fake_command)
    assert processes(study) == before


def test_each_seed_may_have_its_own_data(tmp_path: Path):
    for seed in (1, 2):
        write_data(tmp_path / f"data-{seed}")
    in_recipe = make_study(tmp_path, 1, 2, manifest="data-{seed}/manifest.jsonl")
    manifests = [plan.config.data.manifest for plan in plan_study(in_recipe)]
    assert [path.parent.name for path in manifests] == ["data-1", "data-2"]
    setting = "data.manifest=data-{seed}/manifest.jsonl"
    run_study(make_study(tmp_path, 1, 2, settings=(setting,)), fake_command)
    assert log_of(in_recipe, 2)[0] == "run resume=False seed=2 manifest=data-2"


def test_shared_data_is_said(tmp_path: Path):
    with console.capture() as said:
        page = run_study(make_study(tmp_path, 1, 2), fake_command)
    assert "all seeds use the same data" in said.get()
    assert "All seeds share one data set" in page.read_text()


@pytest.mark.parametrize("value", ["data-{sed}/m", "data-{}/m", "data-{seed", "'{x}'", "['{x}']"])
def test_other_braces_are_refused(value: str):
    with pytest.raises(ConfigError, match=r"has braces that are not \{seed\}"):
        fill_seed(f"data.manifest={value}", 1)


def test_toml_tables_keep_their_braces():
    assert fill_seed("coldstart.optim={ learning_rate = 1e-3 }", 1).endswith("1e-3 }")


@pytest.mark.parametrize(
    ("seeds", "more", "message"),
    [
        ((1, 1), {}, "expected distinct whole numbers"),
        ((1,), {"settings": ("seed=4",)}, "--seeds, which sets it"),
        ((-1,), {}, "seed = -1"),
        ((1,), {"arms": ("vot",)}, "unknown arm 'vot'; did you mean 'vote'"),
        ((1,), {"group_by": "shot"}, r"no such column; this row has \['known'\]"),
        ((1,), {"settings": ("grpo.num_step=4",)}, "did you mean 'num_steps'"),
        ((1,), {"settings": ("data.manifest=none/m.jsonl",)}, "cannot read the manifest"),
    ],
)
def test_mistakes_are_named_before_anything_starts(tmp_path: Path, seeds, more, message: str):
    with pytest.raises((ConfigError, DataError), match=message):
        run_study(make_study(tmp_path, *seeds, **more), fake_command)
    assert not (tmp_path / "study").exists()


def test_a_run_is_resumed_once_it_has_started_and_arms_go_to_the_controls(tmp_path: Path):
    study = make_study(tmp_path, 3, settings=("grpo.num_steps=4",), arms=("vote", "blank"))
    (plan,) = plan_study(study)
    run = child_command(Child(study=study, plan=plan, verb="run"))
    assert run[1:4] == ["-m", "cluster.cli", "run"]
    assert run[-4:] == ["--set", "grpo.num_steps=4", "--set", "seed=3"]
    (plan.run_dir / "archive").mkdir(parents=True)
    assert child_command(Child(study=study, plan=plan, verb="run"))[-1] == "--resume"
    controls = child_command(Child(study=study, plan=plan, verb="controls"))
    assert controls[-3:] == ["--only", "vote", "blank"]


@pytest.mark.slow
def test_the_real_commands_failure_is_shown_with_exit_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    study = make_study(tmp_path, 1)
    arguments = ["study", str(study.recipe), "--run-dir", str(study.directory), "--seeds", "1"]
    with console.capture() as said:
        assert main(arguments) == 1
    assert "no model directory" in said.get()
    assert "error: seed 1: run failed with status 2" in capsys.readouterr().err
