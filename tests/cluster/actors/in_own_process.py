"""Runs a script of this folder in a process of its own: the tests' Ray stays up. (No test file.)"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def run_on_fake_nodes(script: str) -> dict[str, Any]:
    """The figures that the script's ``main`` prints."""
    text = f"from tests.cluster.actors.{script} import main; main()"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures
