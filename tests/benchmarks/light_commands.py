"""How long the commands take that start nothing, as whole processes.

    python -m tests.benchmarks.light_commands [--json FILE]

Commands that only look (ls, status, report, compare, plan, prompts, archive ls, init, --help) on a
small run, and a second `check` of an unchanged recipe with 40 clips. The least of five times each:
what the machine does beside is not theirs. Prints one row per figure: name, value, unit, limit.
Ends with status 1 if a limit is missed. A minute on two cores.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from tests.benchmarks.figures import Figure, report

_ROOT = Path(__file__).parents[2]
_ROUNDS = 5
_LIGHT_S = 1.0
_CHECK_S = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    target = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        return report(measure(Path(folder)), target)


def measure(folder: Path) -> Iterator[Figure]:
    """Times of each command, on a run, a manifest and a recipe in ``folder``."""
    run, data, model = folder / "runs/a", folder / "data", folder / "model"
    other = folder / "runs/b"
    for copy in (run, other):
        shutil.copytree(_ROOT / "tests/data/run_before_move/finished", copy)
    make_demo_data(data, train=20, val=5, cal=10, test=5, traces=10)
    make_demo_model(model)
    recipe = folder / "demo.toml"
    text = (_ROOT / "recipes/demo.toml").read_text()
    recipe.write_text(text.replace("../build/demo/model", "model").replace("../build/demo/", ""))
    light = {
        "--help": ["--help"],
        "ls": ["ls", str(folder)],
        "status": ["status", str(run)],
        "report": ["report", str(run)],
        "compare": ["compare", str(run), str(other)],
        "plan": ["plan", str(recipe)],
        "prompts": ["prompts", str(recipe)],
        "archive ls": ["archive", "ls", str(run)],
        "archive schema": ["archive", "schema"],
        "init": ["init", str(data / "manifest.jsonl"), str(folder / "a.toml"), "--overwrite"],
    }
    light["init"] += ["--model", str(model)]
    for name, words in light.items():
        yield Figure(name, seconds(words), "s", _LIGHT_S, "below")
    check = ["check", str(recipe), "--run-dir", str(folder / "runs/c")]
    yield Figure("check, first", seconds(check, rounds=1), "s")
    yield Figure("check, again", seconds(check), "s", _CHECK_S, "below")


def seconds(words: list[str], rounds: int = _ROUNDS) -> float:
    """The least time that a command takes."""
    command = [sys.executable, "-m", "cluster.cli", *words]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the first of the times compiles, as a user's
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        subprocess.run(command, cwd=_ROOT, env=environment, check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
