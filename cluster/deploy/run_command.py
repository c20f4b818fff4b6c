"""Command line of a run that a scheduler starts, and starts again to go on with what is there."""

import shlex
from collections.abc import Sequence
from pathlib import PurePath

AGAIN = "--auto-resume"
"""Option with which the same command starts a run, or goes on with it."""


def run_command(recipe: PurePath, run_dir: PurePath, overrides: Sequence[str] = ()) -> str:
    """Command line, for a shell, that starts a run or goes on with it."""
    words = ["python", "-m", "cluster.cli", "run", str(recipe), "--run-dir", str(run_dir), AGAIN]
    for override in overrides:
        words += ["--set", override]
    return shlex.join(words)
