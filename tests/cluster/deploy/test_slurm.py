"""The batch script under a SLURM of shell scripts: steps run here, and their Ray only waits."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.config.recipe import read_recipe
from cluster.deploy.slurm import Slurm, slurm_nodes, slurm_script
from tests.slurm_site import SCONTROL, SRUN, calls, write_programs
from wire.errors import ConfigError

Write = Callable[..., Path]
SHELLCHECK = Path(sys.executable).parent / "shellcheck"
EIGHT_AND_EIGHT = """
[rollout]
num_workers = 8
max_workers = 20
num_gpus = 1
num_cpus = 4
[learner]
num_ranks = 8
num_gpus = 1
num_cpus = 2
"""

# A step's Ray waits to be ended; `python` starts the driver, or counts nodes.
PROGRAMS = {
    "srun": SRUN,
    "scontrol": SCONTROL,
    "ray": "echo $$ >>$NOTES/rays; exec /bin/sleep 60",
    "sleep": "exec /bin/sleep 0.05",
    "python": f"""case "$*" in
  *secrets*) exec {shlex.quote(sys.executable)} "$@" ;;
  *"import ray"*) wc -l <$NOTES/rays ;;
  *) echo "$RAY_ADDRESS $RAY_AUTH_MODE $(<"$RAY_AUTH_TOKEN_PATH")" >$NOTES/driver; . $NOTES/run ;;
esac""",
}


def script(recipe: Path, run_dir: Path, **more: Any) -> str:
    where = Slurm(name="my-run", recipe=recipe, run_dir=run_dir, **more)
    return slurm_script(read_recipe(recipe, []), where)


class Site:
    """A place with SLURM's commands on its PATH, and notes of what was called."""

    def __init__(self, folder: Path, recipe: Path) -> None:
        self.notes, self.run_dir = folder / "notes", folder / "a run"
        self.state = folder / "a run.ray"
        self.script = folder / "my-run.sbatch"
        self.script.write_text(script(recipe, self.run_dir))
        self.notes.mkdir()
        (self.notes / "rays").touch()
        write_programs(folder / "bin", PROGRAMS)
        self.env = {
            **os.environ,
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "NOTES": str(self.notes),
            "NODES": "1 2 3",
            "SLURM_JOB_ID": "1234",
            "SLURM_JOB_NODELIST": "node[1-3]",
            "SLURM_JOB_NUM_NODES": "1",
        }

    def start(self, driver: str, *words: str) -> "subprocess.Popen[str]":
        (self.notes / "run").write_text(driver)
        return subprocess.Popen(
            ["bash", str(self.script), *words], env=self.env, stderr=subprocess.PIPE, text=True
        )

    def run(self, driver: str) -> int:
        process = self.start(driver)
        process.communicate(timeout=60)
        return process.returncode

    def calls(self, program: str) -> list[str]:
        return calls(self.notes, program)

    def rays(self) -> list[int]:
        return [int(line) for line in (self.notes / "rays").read_text().split()]


@pytest.fixture
def site(tmp_path: Path, write_recipe: Write) -> Site:
    return Site(tmp_path, write_recipe(EIGHT_AND_EIGHT))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("sections", ["", EIGHT_AND_EIGHT], ids=["cpu", "gpus"])
def test_the_script_passes_shellcheck_and_bash(write_recipe: Write, tmp_path: Path, sections: str):
    path = tmp_path / "s.sbatch"
    setup = ("source /shared/venv/bin/activate", "module_of_site=1")
    path.write_text(script(write_recipe(sections), tmp_path / "it's a run", setup=setup))
    for command in ([str(SHELLCHECK), str(path)], ["bash", "-n", str(path)]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_fewest_nodes_that_hold_the_recipe_are_asked_for(write_recipe: Write, tmp_path: Path):
    recipe = write_recipe(EIGHT_AND_EIGHT)
    config = read_recipe(recipe, [])
    where = Slurm(name="my-run", recipe=recipe, run_dir=tmp_path)
    nodes = slurm_nodes(config, where)
    assert (nodes.count, nodes.gpus, nodes.joining) == (2, 8, 2)  # 12 more workers: 8 and 4
    assert nodes.cpus == 4 * 4 + 4 * 2 + 2  # four workers, four ranks, the driver
    text = slurm_script(config, where)
    for line in ("nodes=2", "gpus-per-node=8", "cpus-per-task=26", "requeue", "time=24:00:00"):
        assert f"#SBATCH --{line}\n" in text
    assert "sbatch --nodes=1 --array=1-2 my-run.sbatch join" in text


def test_a_recipe_without_gpus_asks_for_none(write_recipe: Write, tmp_path: Path):
    text = script(write_recipe(), tmp_path, options=("partition=cpu", "--account=me"))
    assert "gpus-per-node=8" not in text
    assert "gpus_per_node=0" in text
    assert "#SBATCH --partition=cpu\n#SBATCH --account=me\n" in text
    assert "join\n" not in text.split("set -euo")[0]


def test_nodes_that_are_too_small_are_refused(write_recipe: Write, tmp_path: Path):
    recipe = write_recipe(EIGHT_AND_EIGHT)
    with pytest.raises(ConfigError, match="no number of nodes of 8 GPUs and 3 CPUs"):
        script(recipe, tmp_path, cpus_per_node=3)
    with pytest.raises(ConfigError, match="--sbatch nodes=3: the script sets that itself"):
        script(recipe, tmp_path, options=("nodes=3",))


def test_a_run_has_a_ray_of_all_nodes_and_leaves_nothing(site: Site):
    assert site.run("exit 0") == 0
    address, mode, token = (site.notes / "driver").read_text().split()
    assert address.endswith(":21234")
    assert (mode, len(token)) == ("token", 64)
    assert (site.state / "token").stat().st_mode & 0o077 == 0
    head, *others = [call for call in site.calls("srun") if "ray start" in call]
    assert "--nodelist=node1 " in head
    assert "--head" in head
    assert [other.partition("--nodelist=")[2].split()[0] for other in others] == ["node2,node3"]
    assert f"--address={address}" in others[0]
    assert len(site.rays()) == 3
    assert not any(psutil.pid_exists(pid) for pid in site.rays())
    assert not (site.state / "address").exists()
    assert [call for call in site.calls("scontrol") if "requeue" in call] == []


def test_the_driver_goes_on_with_what_is_there(site: Site):
    site.run("exit 0")
    (driver,) = [call for call in site.calls("python") if "cluster.cli" in call]
    assert driver.endswith(f"--run-dir {site.run_dir} --auto-resume")


def test_a_run_that_failed_is_requeued_three_times(site: Site):
    for failures in (1, 2, 3, 4):
        assert site.run("exit 1") == 1
        requeues = [call for call in site.calls("scontrol") if "requeue 1234" in call]
        assert len(requeues) == min(failures, 3)
    assert site.run("exit 0") == 0
    assert site.run("exit 1") == 1  # a run that ended well has all its tries again
    assert len([call for call in site.calls("scontrol") if "requeue" in call]) == 4


def test_a_mistake_of_the_user_is_not_tried_again(site: Site):
    assert site.run("exit 2") == 2
    assert [call for call in site.calls("scontrol") if "requeue" in call] == []


@pytest.mark.parametrize(
    ("number", "requeued"), [(signal.SIGUSR1, 1), (signal.SIGTERM, 0)], ids=["time", "ended"]
)
def test_the_driver_is_interrupted_when_the_time_is_over(
    site: Site, number: signal.Signals, requeued: int
):
    process = site.start(
        "trap 'touch $NOTES/interrupted; exit 130' TERM; while :; do sleep 0.1; done"
    )
    wait_until((site.notes / "driver").exists)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert (site.notes / "interrupted").exists()
    assert not any(psutil.pid_exists(pid) for pid in site.rays())
    assert len([call for call in site.calls("scontrol") if "requeue" in call]) == requeued


def test_a_node_that_joins_follows_the_run_to_another_head_and_ends_with_it(site: Site):
    site.state.mkdir()
    address = site.state / "address"
    address.write_text("10.0.0.1:20001")
    process = site.start("", "join")

    def joined(at: str) -> bool:
        calls = site.calls("ray") if (site.notes / "calls").exists() else []
        return any(f"--address={at}" in call for call in calls)

    wait_until(lambda: joined("10.0.0.1:20001"))
    address.write_text("10.0.0.2:20001")
    os.kill(site.rays()[-1], signal.SIGTERM)  # a raylet whose head is gone ends
    wait_until(lambda: joined("10.0.0.2:20001"))
    wait_until(lambda: len(site.rays()) == 2)
    address.unlink()
    os.kill(site.rays()[-1], signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert process.stderr is not None
    assert "the run is over" in process.stderr.read()
