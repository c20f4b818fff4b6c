"""The process of one trial: ``python -m cluster.doctor.trial_process MODULE:FUNCTION ANSWER
SETTINGS``.

Its answer is a file; whatever the engines print goes to the log of cluster/doctor/runner.py.
"""

import importlib
import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from cluster.doctor.runner import Outcome
from wire.whole_file import whole_file


def main(trial: str, answer: str, settings: str) -> None:
    """Run a trial and write its outcome; an exception becomes a failure."""
    module, _, function = trial.partition(":")
    try:
        outcome = getattr(importlib.import_module(module), function)(**json.loads(settings))
    except Exception as error:  # noqa: BLE001  a trial is there to find out what may be raised
        traceback.print_exc()
        outcome = Outcome(status="failed", found=_one_line(error))
    with whole_file(Path(answer)) as partial:  # the process may be killed here
        partial.write_text(json.dumps(asdict(outcome)), encoding="utf-8")


def _one_line(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error  # Ray wraps what a task raised
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0] if lines else ''}"[:300]


if __name__ == "__main__":
    main(*sys.argv[1:])
