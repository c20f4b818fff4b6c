"""Proof that the CUDA lock works as far as a machine without a GPU can show it.

    build/cuda-lock/.venv from cuda.txt -> pip check -> the stack imports -> unit tests pass in it

Run by `make test-cuda-lock`, never by `make test`: about 10 GB of packages, and minutes. The
environment stays for the next time; `rm -r build/cuda-lock` gives its disk back.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import setup

ENVIRONMENT = setup.Environment(setup.ROOT / "build" / "cuda-lock" / ".venv", "cuda")
STACK = ("torch", "torchvision", "transformers", "vllm", "deepspeed", "ray", "peft", "decord", "av")
_NEEDED_GB = 14
_LOOK = """
import importlib, sys, torch
for name in sys.argv[1:]:
    print(name, getattr(importlib.import_module(name), "__version__", ""), flush=True)
assert torch.version.cuda, f"torch {torch.__version__} is no CUDA build"
"""


def main() -> None:
    """Install, look and test; ends at the first that fails."""
    setup.refuse_other_machines()
    ENVIRONMENT.folder.parent.mkdir(parents=True, exist_ok=True)
    free_gb = shutil.disk_usage(ENVIRONMENT.folder.parent).free / 1e9
    if not ENVIRONMENT.stamp.exists() and free_gb < _NEEDED_GB:
        sys.exit(
            f"test-cuda-lock: {free_gb:.0f} GB are free for {ENVIRONMENT.folder}, and the packages "
            f"take up to {_NEEDED_GB}; make room, or link build/cuda-lock to another disk"
        )
    setup.bring_up_to_date(ENVIRONMENT)
    python = str(ENVIRONMENT.python)
    setup.run([python, "-m", "pip", "check"])
    setup.run([python, "-c", _LOOK, *STACK], _without_gpu())
    tests = ["-m", "pytest", "-q", "-m", "not slow and not ray", "-n", "2", "--dist", "loadfile"]
    setup.run([python, *tests, *sys.argv[1:]], _without_gpu())


def _without_gpu() -> dict[str, str]:
    """This environment, where a GPU that the machine has is not seen: what is proved must not
    depend on it."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(setup.failure(error))
