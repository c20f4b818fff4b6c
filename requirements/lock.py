"""Write cuda.txt and cpu.txt anew: every package of the environment, with its version.

    base.in + dev.in + cuda.in -> cuda.txt
    base.in + dev.in + cpu.in, held to the versions of cuda.txt -> cpu.txt

Run by `make lock`. Versions that still fit stay; `make lock FLAGS=--upgrade` moves them all, and
`make lock FLAGS='--upgrade-package ray'` one. The locks are installed with --no-deps, because some
packages ask for builds that must not be there (see cpu-overrides.txt).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from package_index import (
    PYTORCH_CPU_INDEX,
    index_flags,
    pinned,
    pip_settings,
    uv_environment,
)

REQUIREMENTS = Path(__file__).resolve().parent
HEADER = """\
# Made by `make lock` from base.in, dev.in and {device}.in: change those instead.
# Complete: install it with --no-deps, as `make setup` does.
"""


def main() -> None:
    """Both locks; arguments go to uv."""
    write_lock("cuda", sys.argv[1:])
    # The engines' own builds differ; every other package must not.
    shared = pinned(REQUIREMENTS / "cuda.txt")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "cuda-versions.txt"
        lines = [f"{name}=={version}\n" for name, version in shared.items() if name != "torch"]
        constraints.write_text("".join(lines))
        # A machine without a CPU torch of its own gets PyTorch's; pip's configuration comes first.
        overrides = REQUIREMENTS / "cpu-overrides.txt"
        flags = [*sys.argv[1:], f"--constraint={constraints}", f"--override={overrides}"]
        try:
            write_lock("cpu", flags)
        except subprocess.CalledProcessError:
            write_lock("cpu", [*flags, f"--extra-index-url={PYTORCH_CPU_INDEX}"])


def write_lock(device: str, flags: list[str]) -> None:
    """Resolve with uv, then say which builds are meant."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    settings = pip_settings(listing.stdout)
    lock = REQUIREMENTS / f"{device}.txt"
    subprocess.run(
        [
            *("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"),
            *("--python-version=3.11", "--python-platform=x86_64-manylinux_2_35"),
            *index_flags(settings),
            *flags,
            f"--output-file={lock}",
            *(str(REQUIREMENTS / name) for name in ("base.in", "dev.in", f"{device}.in")),
        ],
        env={**uv_environment(settings), **os.environ},
        check=True,
    )
    lock.write_text(HEADER.format(device=device) + exact_builds(lock.read_text()))


def exact_builds(lock: str) -> str:
    """``torch==2.13.0`` would take a 2.13.0+cpu where one is offered; ``===`` does not."""
    return re.sub(r"^(torch|torchvision)==(?=[^+\n]+$)", r"\1===", lock, flags=re.MULTILINE)


if __name__ == "__main__":
    main()
