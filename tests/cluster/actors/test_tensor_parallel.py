"""An engine on several GPUs, inside the bundle that Ray gives its actor: what vLLM's own
configuration code makes of our arguments. Ray's GPUs are invented, and vLLM's build is for CPUs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import write_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def configured(model: Path, backend: str) -> dict[str, Any]:
    script = Path(__file__).with_name("configuring_actor.py")
    root = str(Path(__file__).parents[3])
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, str(script), str(model), backend],
        env={**environment, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def test_an_engine_on_two_gpus_runs_its_workers_as_processes_on_the_gpus_of_its_bundle(
    tmp_path: Path,
):
    model = write_tiny_model(tmp_path / "model", "qwen2_5_vl", vision_heads=2)
    ours = configured(model, "ours")
    assert (ours["backend"], ours["executor"]) == ("mp", "MultiprocExecutor")
    assert (ours["world_size"], ours["start_method"]) == (2, "spawn")
    assert len(ours["given"]) == 2
    assert ours["given"] == ours["visible"] == ours["visible_to_workers"]
    # left to itself, vLLM would start Ray actors, and refuse a bundle of two GPUs
    assert configured(model, "none")["backend"] == "ray"
