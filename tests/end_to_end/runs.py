"""Builders for tests that run the command line as a user does. (No test file.)"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rollout.message import Message

ROOT = Path(__file__).parents[2]

LABELS = {
    "relapse": "a same and an opposite",
    "undo": "an opposite, no same",
    "repeat": "a same, no opposite",
    "zigzag": "turn then turn",
    "varied": "none of these",
}

TINY = """
[rollout]
max_prompt_length = 384
max_response_length = 24
dtype = "float32"
block_size = 32
num_threads = 1
[learner]
dtype = "float32"
num_threads = 1
[coldstart]
epochs = 2
batch_size = 4
optim = { learning_rate = 1e-3 }
[grpo]
num_steps = 3
groups_per_step = 4
groups_per_update = 2
save_every = 1
optim = { learning_rate = 1e-4 }
[calibrate]
epochs = 1
num_traces = 2
batch_size = 8
"""


def write_recipe(folder: Path, model: Path, manifest: Path, labels: dict[str, str]) -> Path:
    """A recipe for a run of a minute."""
    entries = [
        f'[[labels]]\nname = "{name}"\ndefinition = "{text}"' for name, text in labels.items()
    ]
    head = f'model = "{model}"\n' + "\n".join(entries) + f'\n[data]\nmanifest = "{manifest}"\n'
    path = folder / "recipe.toml"
    path.write_text(head + TINY)
    return path


def command(*words: str | Path) -> list[str]:
    """Our command line, started as a job does."""
    return [sys.executable, "-m", "cluster.cli", *map(str, words)]


def run(
    recipe: Path,
    run_dir: Path,
    *more: str,
    address: str | None = None,
    verb: str = "run",
    timeout_s: float = 550,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a recipe to its end, in a Ray that is up (``address``) or in one of its own."""
    words = command(verb, recipe, "--run-dir", run_dir, *more)
    around = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | (env or {})
    if address:
        around["RAY_ADDRESS"] = address
    return subprocess.run(
        words, cwd=ROOT, env=around, capture_output=True, text=True, timeout=timeout_s
    )


def summary(run_dir: Path) -> dict[str, Any]:
    """The results of a run."""
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


def metrics(run_dir: Path, stage: str) -> list[dict[str, Any]]:
    """The logged steps of a stage."""
    return [row for row in _rows(run_dir, stage) if "val/accuracy" not in row]


def validations(run_dir: Path, stage: str) -> dict[int, dict[str, Any]]:
    """Step -> figures of the validations of a stage."""
    return {row["step"]: row for row in _rows(run_dir, stage) if "val/accuracy" in row}


def _rows(run_dir: Path, stage: str) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [row for line in lines if (row := json.loads(line))["stage"] == stage]


def plain_vllm(model: Path, video: str, messages: Sequence[Message]) -> dict[str, list[int]]:
    """One greedy answer of plain vLLM, in a process of its own: ids of ``prompt``, ``response``."""
    (message,) = messages
    request = {"model": str(model), "video": video, "text": message.text}
    script = Path(__file__).with_name("plain_vllm.py")
    done = subprocess.run(
        [sys.executable, script, json.dumps(request)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[int]] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_clip(
    path: Path, width: int, height: int, fps: int, frames: int, times_ms: Sequence[int] = ()
) -> Path:
    """A moving gradient; ``times_ms``: when its frames are shown, if not at an even rate."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if times_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        y, x = np.mgrid[:height, :width]
        for index in range(frames):
            planes = (x * 3 + 20 * index, y * 3 - 10 * index, x + y + 5 * index)
            picture = np.stack([plane % 256 for plane in planes], -1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times_ms:
                frame.pts, frame.time_base = times_ms[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
