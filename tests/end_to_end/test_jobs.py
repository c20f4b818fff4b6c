"""A run as a Ray job on a cluster of three nodes with tokens: logs, scale, stop, start anew."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from cluster.metrics.events import read_events
from cluster.pool.worker_view import read_fleet
from tests.end_to_end.raylets import Raylets, raylets, wait_for
from tests.end_to_end.runs import LABELS, ROOT, command, metrics, write_recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

# Each worker and rank fills a node.
SETTINGS = (
    "rollout.num_cpus=1",
    "learner.num_cpus=1",
    "rollout.group_size=4",
    "rollout.max_response_length=12",
    "grpo.groups_per_step=2",
    "grpo.save_every=2",
    "guards.max_steps_without_signal=0",
    "rollout.min_workers=1",
)
OURS = ("VLLM::", "LearnerActor", "RolloutActor", "JobSupervisor")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Raylets]:
    with raylets(2) as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, data and recipe of a small run."""
    folder = tmp_path_factory.mktemp("jobs")
    make_demo_model(folder / "model")
    manifest = make_demo_data(folder / "data", train=8, traces=2, val=1, cal=1, test=1)
    write_recipe(folder, folder / "model", manifest, LABELS)
    return folder


def grpo(folder: Path, num_steps: int, *more: str) -> list[str]:
    words = ["grpo", str(folder / "recipe.toml"), "--run-dir", str(folder / "run"), *more]
    for setting in (*SETTINGS, f"grpo.num_steps={num_steps}"):
        words += ["--set", setting]
    return words


def num_steps(folder: Path) -> int:
    path = folder / "run/metrics.jsonl"
    return len(metrics(folder / "run", "grpo")) if path.exists() else 0


def status_of(nodes: Raylets, job: str) -> str:
    return nodes.ray("job", "status", job).stdout


def logged_step(nodes: Raylets, job: str) -> int:
    """The last step that the job's log shows."""
    lines = re.findall(r"grpo: (\d+)/\d+", nodes.ray("job", "logs", job).stdout)
    return int(lines[-1]) if lines else 0


def serving(folder: Path) -> list[str]:
    """Workers that get requests."""
    view = read_fleet(folder / "run")
    return [worker.name for worker in view.workers if worker.state.serves] if view else []


def left(folder: Path) -> list[str]:
    return [e.subject for e in read_events(folder / "run") if e.kind == "worker_left"]


def test_who_has_another_token_is_refused(nodes: Raylets):
    refused = nodes.ray("job", "list", RAY_AUTH_TOKEN="x" * 64)
    assert refused.returncode != 0
    assert "token" in refused.stderr


def test_a_job_is_scaled_and_stopped_leaves_nothing_and_goes_on_when_it_is_submitted_again(
    nodes: Raylets, folder: Path
):
    elastic = ("--set", "rollout.max_workers=2")
    submitted = nodes.submit("first", *grpo(folder, 50_000, "--auto-resume", *elastic))
    assert submitted.returncode == 0, submitted.stderr
    wait_for(lambda: num_steps(folder) >= 2 or "FAILED" in status_of(nodes, "first"), 400, "steps")
    assert num_steps(folder) >= 2, nodes.ray("job", "logs", "first").stdout[-3000:]

    done = num_steps(folder)
    # a line each 15 s; those that wait in a buffer of 8 KB would be minutes old
    wait_for(lambda: logged_step(nodes, "first") >= done, 60, f"step {done} in the log")
    assert "RUNNING" in status_of(nodes, "first")
    assert all(nodes.processes([title]) for title in OURS)

    wait_for(lambda: len(serving(folder)) == 2, 240, "the second worker")
    scale = ("scale", str(folder / "run"), "--workers")
    assert nodes.submit("scale-down", *scale, "1", wait=True).returncode == 0
    wait_for(lambda: left(folder), 120, "a worker to leave")
    assert len(serving(folder)) == 1
    assert nodes.look()[1]["CPU"] == 1, "its node is free"
    subprocess.run(command(*scale, "2"), cwd=ROOT, check=True, timeout=60)
    wait_for(lambda: len(serving(folder)) == 2, 240, "a worker to join")
    assert not set(serving(folder)) & set(left(folder)), "it is another one"
    steps = num_steps(folder)
    wait_for(lambda: num_steps(folder) > steps, 120, "a further step")

    before = time.monotonic()
    assert nodes.ray("job", "stop", "first", timeout_s=120).returncode == 0
    wait_for(lambda: not nodes.processes(OURS), 60, "the job's processes to end")
    total, free, groups = nodes.look()
    assert (free["CPU"], groups) == (total["CPU"], [])
    print(f"nothing of the job was left after {time.monotonic() - before:.0f} s")  # noqa: T201

    done = num_steps(folder)
    again = nodes.submit("again", *grpo(folder, done + 2, "--auto-resume"), wait=True)
    assert again.returncode == 0, again.stdout[-3000:]
    assert "grpo: going on from checkpoint" in again.stdout
    assert "succeeded" in again.stdout
    steps = [row["step"] for row in metrics(folder / "run", "grpo")]
    assert steps[-1] == done + 2
    assert json.loads((folder / "run/status.json").read_text())["state"] == "finished"


def test_a_job_that_fails_has_the_exit_code_and_the_reason(nodes: Raylets, folder: Path):
    failed = nodes.submit("taken", *grpo(folder, 500), wait=True)
    assert failed.returncode != 0
    assert "already holds a run; give --resume" in failed.stdout
    assert "exit code 2" in failed.stdout + failed.stderr + status_of(nodes, "taken")
