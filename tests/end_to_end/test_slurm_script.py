"""The batch script of `deepintuit deploy --slurm` with a real Ray of two nodes and a real run."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from tests.end_to_end.runs import LABELS, ROOT, command, metrics, write_recipe
from tests.slurm_site import SCONTROL, SRUN, calls, write_programs

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

GRPO_ALONE = '[[stages]]\nname = "grpo"\nkind = "grpo"\nnum_steps = 2\n'
# Each worker and rank fills a node; the two share this machine.
SETTINGS = ("rollout.num_cpus=3", "learner.num_cpus=3", "grpo.groups_per_step=2")


def test_the_script_starts_a_ray_of_two_nodes_and_runs_the_recipe(tmp_path: Path):
    make_demo_model(tmp_path / "model")
    manifest = make_demo_data(tmp_path / "data", train=8, traces=2, val=1, cal=1, test=1)
    recipe = write_recipe(tmp_path, tmp_path / "model", manifest, LABELS)
    recipe.write_text(recipe.read_text() + GRPO_ALONE)
    words = command(
        "deploy", recipe, "--slurm", "--run-dir", tmp_path / "run", "--cpus-per-node", 3
    )
    for setting in SETTINGS:
        words += ["--set", setting]
    subprocess.run(
        [*words, "--out", str(tmp_path / "my.sbatch")], cwd=ROOT, check=True, timeout=120
    )

    write_programs(tmp_path / "bin", {"srun": SRUN, "scontrol": SCONTROL})
    path = os.pathsep.join(
        [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    )
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node[1-2]", "NODES": "1 2"}
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | job
    env |= {
        "PATH": path,
        "NOTES": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "RAY_worker_niceness": "0",
    }
    done = subprocess.run(
        ["bash", str(tmp_path / "my.sbatch")],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert [row["step"] for row in metrics(tmp_path / "run", "grpo")] == [1, 2]
    assert "2 nodes" in done.stderr
    assert len([call for call in calls(tmp_path, "srun") if "ray start" in call]) == 2
    assert not [call for call in calls(tmp_path, "scontrol") if "requeue" in call]
    assert list((tmp_path / "run.ray").iterdir()) == [tmp_path / "run.ray/token"]
    left = [p.pid for p in psutil.process_iter(["environ"]) if of_job(p, job["SLURM_JOB_ID"])]
    assert left == []


def of_job(process: psutil.Process, job: str) -> bool:
    return (process.info["environ"] or {}).get("SLURM_JOB_ID") == job
