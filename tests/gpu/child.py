"""One check in a process of its own: its rows go through a pipe, so that a fault ends it alone.

    python -m tests.gpu.child NAME MODULE ARGUMENTS DEVICE PEAK_TFLOPS FD

MODULE is one of this folder, with ``figures(setting, *arguments)``; ARGUMENTS is a JSON list.
"""

import importlib
import json
import os
import sys
import time
from dataclasses import asdict

from tests.gpu.rows import NotRun, Row
from tests.gpu.setting import Setting
from tests.gpu.shape_names import stand_in
from wire.strict_json import to_json

_OURS = ("wire", "video", "rollout", "reward", "learner", "calibrate", "cluster", "tests")


def main() -> int:
    name, module, arguments, device, peak, descriptor = sys.argv[1:]
    stand_in()
    setting = Setting(device, float(peak) or None)
    with os.fdopen(int(descriptor), "w") as rows:

        def give(row: Row) -> None:
            rows.write(to_json(asdict(row)) + "\n")
            rows.flush()

        start = time.perf_counter()
        try:
            figures = importlib.import_module(f"tests.gpu.{module}").figures
            for result in figures(setting, *json.loads(arguments)):
                give(Row.of(result, time.perf_counter() - start))
                start = time.perf_counter()
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing in _OURS:
                raise
            give(Row.of(NotRun(name, not_installed([missing])), time.perf_counter() - start))
    return 0


def not_installed(modules: list[str]) -> str:
    """Why a check is left out."""
    return f"skipped: needs {' and '.join(modules)}, which is not installed"


if __name__ == "__main__":
    sys.exit(main())
