"""What operators do to a run: kill it, resume it, scale it, submit it, give it other clips."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from tests.end_to_end.runs import LABELS, ROOT, command, metrics, run, summary, write_recipe
from wire.archive.archive import read_groups
from wire.types import Purpose

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, data and recipe of a small run."""
    folder = tmp_path_factory.mktemp("operations")
    make_demo_model(folder / "model")
    manifest = make_demo_data(folder / "data", train=16, traces=8, val=1, cal=6, test=6)
    write_recipe(folder, folder / "model", manifest, LABELS)
    return folder


def wait_for(condition: object, timeout_s: float, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.5)


def family(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """All processes below a driver; vLLM's and the learner's must be among them."""
    found = psutil.Process(driver.pid).children(recursive=True)
    titles = " ".join(title_of(process) for process in found)
    assert "VLLM::" in titles
    assert "LearnerActor" in titles
    return found


def title_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""  # it ended meanwhile


def all_gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs any more."""
    return not any(runs(process) for process in processes)


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_kill_9_of_the_driver_in_grpo_and_resume(folder: Path):
    out = folder / "killed"
    words = command("run", folder / "recipe.toml", "--run-dir", out, "--set", "grpo.num_steps=6")
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with (folder / "killed.log").open("w") as log:
        driver = subprocess.Popen(words, cwd=ROOT, env=env, stdout=log, stderr=log, text=True)
    checkpoint = out / "checkpoints/grpo/step-000002/manifest.json"
    wait_for(lambda: checkpoint.exists() or driver.poll() is not None, 500, "a checkpoint of GRPO")
    assert driver.poll() is None
    processes = family(driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = list(read_groups(out / "archive"))
    assert len([g for g in before if g.purpose is Purpose.TRAIN]) >= 8
    # the engines and the learner end within seconds; Ray's own agents notice after a minute
    wait_for(lambda: all_gone(processes), 120, "the killed run's processes to end")
    found = status(out)
    assert (found["state"], found["stage"]) == ("stopped", "grpo")
    assert "killed" in found["why"]

    done = run(folder / "recipe.toml", out, "--resume", "--set", "grpo.num_steps=6")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "grpo: going on from checkpoint" in done.stdout
    assert "attempt 1" in done.stderr
    assert "finished: base" in done.stderr
    assert "grpo: at step 2 of 6" in done.stderr or "grpo: at step 3 of 6" in done.stderr
    assert status(out)["state"] == "finished"
    after = {(str(g.policy_version), g.group_id) for g in read_groups(out / "archive")}
    assert {(str(g.policy_version), g.group_id) for g in before} <= after, "a group was lost"
    assert {group.policy_version.attempt for group in read_groups(out / "archive")} == {0, 1}
    assert [s["name"] for s in summary(out)["stages"]] == [
        "base",
        "coldstart",
        "grpo",
        "calibrated",
    ]
    assert metrics(out, "grpo")[-1]["step"] == 6


def status(out: Path) -> dict[str, Any]:
    """What `deepintuit status` says, from another process."""
    done = subprocess.run(
        command("status", out, "--json"), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_ctrl_c_leaves_a_resumable_run_and_no_process(folder: Path):
    out = folder / "interrupted"
    words = command("run", folder / "recipe.toml", "--run-dir", out)
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    driver = subprocess.Popen(words, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    done = out / "stages/base/done.json"
    wait_for(lambda: done.exists() or driver.poll() is not None, 500, "the first stage")
    found = status(out)
    assert (found["state"], found["stage"], found["writer"]["alive"]) == (
        "running",
        "coldstart",
        True,
    )
    processes = family(driver)
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=90)[1]
    assert driver.returncode == 130
    resume = f"run {folder / 'recipe.toml'} --run-dir {out} --resume"
    assert resume in said
    found = status(out)
    assert found["state"] == "stopped"
    assert resume in found["resume"]
    wait_for(lambda: all_gone(processes), 60, "the interrupted run's processes to end")


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT] * 2]
)
def test_an_interrupt_while_engines_start_leaves_no_process(
    folder: Path, tmp_path: Path, signals: list[signal.Signals]
):
    words = command("run", folder / "recipe.toml", "--run-dir", tmp_path / "run")
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    log = tmp_path / "log"
    with log.open("w") as file:
        driver = subprocess.Popen(words, cwd=ROOT, env=env, stdout=file, stderr=file)
    started = time.monotonic()

    def engine_comes_up() -> bool:
        found = psutil.Process(driver.pid).children(recursive=True)
        return any("VLLM::" in title_of(p) or "spawn_main" in title_of(p) for p in found)

    wait_for(lambda: driver.poll() is not None or engine_comes_up(), 200, "an engine's process")
    assert driver.poll() is None, log.read_text()
    processes = psutil.Process(driver.pid).children(recursive=True)
    assert "step" not in log.read_text(), f"it was up after {time.monotonic() - started:.0f} s"
    for number in signals:
        driver.send_signal(number)
        time.sleep(0.5)
    assert driver.wait(timeout=90) == 130
    assert "again: at once" in log.read_text()
    assert status(tmp_path / "run")["state"] == "stopped"
    wait_for(lambda: all_gone(processes), 60, "the interrupted run's processes to end")


def test_two_workers_and_two_ranks(folder: Path):
    out = folder / "two"
    settings = ("rollout.num_workers=2", "learner.num_ranks=2", "learner.zero_stage=2")
    more = [word for setting in settings for word in ("--set", setting)]
    done = run(folder / "recipe.toml", out, *more)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for row in metrics(out, "grpo"):
        assert row["parity/probe_max_logprob_diff"] < 1e-5
        assert row["rollout/num_out_of_service"] == 0


def test_clips_made_differently(tmp_path: Path, folder: Path):
    """Another size, frame rate, codec and length; three labels; Parquet-free JSONL by hand."""
    import av
    import numpy as np

    rows = []
    shapes = [
        ("libx265", 96, 64, 10, 31),
        ("libvpx-vp9", 64, 112, 30, 17),
        ("libx264", 80, 80, 5, 9),
    ]
    random = np.random.default_rng(0)
    for index in range(18):
        codec, width, height, fps, frames = shapes[index % 3]
        path = tmp_path / f"{index}.{'webm' if 'vp9' in codec else 'mp4'}"
        with av.open(str(path), "w") as file:
            stream = file.add_stream(codec, rate=fps)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for step in range(frames):
                image = np.full((height, width, 3), 30 * (index % 3), np.uint8)
                image[step % height, :, index % 3] = 255
                image += random.integers(0, 5, image.shape, dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        label = ("red", "green", "blue")[index % 3]
        split = ("train", "train", "train", "train", "cal", "test")[index // 3]
        trace = f"<think>it is {label}</think><answer>{label}</answer>" if index < 6 else None
        rows.append(
            {"id": f"c{index}", "video": path.name, "label": label, "split": split, "trace": trace}
        )
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    rows.append({**rows[9], "id": "broken", "video": "broken.mp4"})
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = {"red": "a red line moves", "green": "a green line", "blue": "a blue line"}
    recipe = write_recipe(tmp_path, folder / "model", manifest, labels)
    # so that the broken clip is met on the way
    done = run(recipe, tmp_path / "out", "--set", "data.check_clips=false")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "broken.mp4" in (tmp_path / "out/quarantine.jsonl").read_text()
    groups = list(read_groups(tmp_path / "out/archive", Purpose.TRAIN))
    failed = [group for group in groups if group.failures]
    assert failed, "the broken clip is archived as a failure"
    assert all(group.sample.id == "broken" and not group.traces for group in failed)
    assert all(trace.reward is not None for group in groups for trace in group.traces)
    assert all(
        row["parity/probe_max_logprob_diff"] < 1e-5 for row in metrics(tmp_path / "out", "grpo")
    )
    assert summary(tmp_path / "out")["stages"][0]["num_samples"] == 3
