"""What one card can answer within minutes, smallest first, each result written as it ends.

    python -m tests.gpu --json FILE
    python -m tests.gpu --json FILE --only attention_qwen2_vl throughput
    python -m tests.gpu --device cpu --json FILE      the same code in small, without a card

Needs PyTorch 2.11 and transformers 5.17, or newer; a check that needs more is left out by name.
Every check is a process of its own, ended when its time is over; the others go on. FILE gets a row
per figure (tests/gpu/rows.py), whole, at once; docs/gpu.md says what each means. Exit status: 0 all
that ran passed, 1 something failed or had no time, 2 it cannot start.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.gpu.catalogue import CHECKS
from tests.gpu.run import Run

_OLDEST = {"torch": (2, 11), "transformers": (5, 17)}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    names = [check.name for check in CHECKS]
    if options.list:
        for check in CHECKS:
            also = f" (also {', '.join(check.needs)})" if check.needs else ""
            print(f"{check.name:22} {check.what}{also}")  # noqa: T201
        return 0
    if unknown := [name for name in options.only or () if name not in names]:
        return _refuse(f"no check is named {', '.join(unknown)}; there are {', '.join(names)}")
    if problem := too_old() or no_card(options.device):
        return _refuse(problem)
    chosen = [check for check in CHECKS if check.name in (options.only or names)]
    # an end from outside ends the checks' processes, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run = Run(options.device, options.json, jobs=options.jobs, peak_tflops=options.peak_tflops)
    start = time.monotonic()
    run.take_all(chosen, options.minutes * 60)
    run.say(
        f"{run.passed} rows passed, {run.failed} failed, {run.not_run} did not run; "
        f"{time.monotonic() - start:.0f} s on {run.device_name}"
    )
    return int(run.failed > 0 or run.out_of_time)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    jobs = max(1, min(3, len(os.sched_getaffinity(0)) // 4))
    parser.add_argument("--json", type=Path, metavar="FILE", help="rows are appended to it")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="checks to run; --list has them")
    parser.add_argument("--list", action="store_true", help="print the checks and end")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all together (8)")
    parser.add_argument("--jobs", type=int, default=jobs, help="side by side (3 from 12 cores on)")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the card, for MFU")
    return parser


def too_old() -> str | None:
    """Why the libraries here are not enough, or None."""
    for name, oldest in _OLDEST.items():
        wanted = ".".join(map(str, oldest))
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed; install {name} {wanted} or newer"
        version = importlib.metadata.version(name)
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < oldest:
            return f"{name} is {version}; install {wanted} or newer"
    return None


def no_card(device: str) -> str | None:
    """Why this device is not there, or None."""
    import torch

    if device == "cpu" or torch.cuda.is_available():
        return None
    build = torch.version.cuda
    if build is None:
        why = f"torch {torch.__version__} is a build without CUDA"
    else:
        why = f"torch {torch.__version__} (CUDA {build}) sees no card: try nvidia-smi"
    return f"{why}. `--device cpu` runs the same checks in small, without a card"


def _refuse(problem: str) -> int:
    print(f"tests.gpu: {problem}", file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    sys.exit(main())
