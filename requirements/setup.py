"""Make .venv: one whole lock, the torchvision hook, and the `deepintuit` command.

    python 3.11 -> .venv -> uv -> torch -> the lock -> hook and command -> stamp

The CUDA lock where an NVIDIA GPU is visible, else the CPU lock; DEEPINTUIT_DEVICE=cpu or cuda
decides it by hand. The stamp is written last and covers all that goes in: when it agrees and no
package is missing there is nothing to do, and in any other case the environment is built from
nothing, so an interrupted installation never survives. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from package_index import index_flags, pinned, pip_settings, torch_flags, uv_environment

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
SITE_PACKAGES = VENV / "lib" / "python3.11" / "site-packages"
STAMP = VENV / "deepintuit-setup.stamp"

HOOK = "deepintuit_torchvision_cpu"
COMMAND = """\
#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
# The shell reads the two lines above, Python takes them for a string: paths may have spaces.
import sys

from cluster.cli import main

if __name__ == "__main__":  # processes started by multiprocessing read this file, too
    sys.exit(main())
"""


def main() -> None:
    """Bring .venv up to date, or say what is in the way."""
    problem = unsupported(sys.version_info[:2], platform.system(), platform.machine())
    if problem:
        sys.exit(f"setup: {problem}")
    device = choose_device(os.environ, has_nvidia_gpu)
    lock = REQUIREMENTS / f"{device}.txt"
    with one_at_a_time():
        stamp = fingerprint(device)
        if not is_ready(stamp, lock):
            started = time.monotonic()
            say(f"building .venv from {lock.relative_to(ROOT)}; minutes where nothing is cached")
            build(device, lock)
            STAMP.write_text(stamp)
            say(f"ready after {time.monotonic() - started:.0f} s")


def unsupported(version: tuple[int, ...], system: str, machine: str) -> str | None:
    """Why this machine cannot have the environment, or None."""
    if tuple(version) != (3, 11):
        return (
            f"this is Python {'.'.join(map(str, version))}, and the locks are for Python 3.11. "
            "Install 3.11, then name it: make setup PYTHON=/path/to/python3.11"
        )
    if (system, machine) != ("Linux", "x86_64"):
        return (
            f"this is {system} on {machine}, and the locks are for Linux on x86_64. "
            "Use a Linux x86_64 machine or container"
        )
    return None


def choose_device(environment: Mapping[str, str], has_gpu: Callable[[], bool]) -> str:
    """The name of the lock to install."""
    asked = environment.get("DEEPINTUIT_DEVICE", "")
    if asked not in ("", "cpu", "cuda"):
        sys.exit(f"setup: DEEPINTUIT_DEVICE={asked}: expected cpu or cuda, or leave it unset")
    return asked or ("cuda" if has_gpu() else "cpu")


def has_nvidia_gpu() -> bool:
    """Whether nvidia-smi is there and lists a GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listing.returncode == 0 and "GPU" in listing.stdout


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two set-ups of one checkout (`make test` beside `make demo`) follow one another."""
    folder = os.open(REQUIREMENTS, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def fingerprint(device: str) -> str:
    """Changes whenever the finished environment would."""
    # The checkout's own place is in the environment's scripts and in its path file.
    digest = hashlib.sha256(f"{device} {ROOT}".encode())
    for file in (REQUIREMENTS / f"{device}.txt", *sorted(REQUIREMENTS.glob("*.py"))):
        digest.update(file.read_bytes())
    return f"{device} {digest.hexdigest()}\n"


def is_ready(stamp: str, lock: Path) -> bool:
    """Whether the last set-up finished, was this one, and has lost no package since."""
    finished = STAMP.is_file() and PYTHON.exists() and STAMP.read_text() == stamp
    return finished and not missing(pinned(lock), [path.name for path in SITE_PACKAGES.iterdir()])


def missing(packages: Mapping[str, str], installed: list[str]) -> set[str]:
    """Pinned packages without their `name-version.dist-info` folder."""
    folders = [name[: -len(".dist-info")] for name in installed if name.endswith(".dist-info")]
    present = {re.sub("[-_.]+", "-", name.rpartition("-")[0]).lower() for name in folders}
    return set(packages) - present


def build(device: str, lock: Path) -> None:
    """Everything but the stamp, from nothing."""
    packages = pinned(lock)
    run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    pip = [str(PYTHON), "-m", "pip"]
    run([*pip, "install", "--quiet", "--quiet", f"uv=={packages['uv']}"])
    listing = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=True)
    settings = pip_settings(listing.stdout)
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--quiet", f"--python={PYTHON}"]
    try:
        install([*uv, *index_flags(settings)], device, lock, uv_environment(settings))
    except subprocess.CalledProcessError:
        say("uv did not manage; once more with pip, which is slower")
        install([*pip, "install", "--quiet"], device, lock, {})
    install_hook()
    install_command()


def install(installer: list[str], device: str, lock: Path, environment: dict[str, str]) -> None:
    """torch from where its build is offered, then the rest of the lock."""
    torch = next(line for line in lock.read_text().splitlines() if line.startswith("torch="))
    environment = {**environment, **os.environ}
    # A pip or uv that asks its index about a build that is not there says so in the exit status.
    offered = (
        subprocess.run(
            [*installer, "--dry-run", "--no-deps", torch],
            env=environment,
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )
    run([*installer, "--no-deps", *torch_flags(offered, device), torch], environment)
    run([*installer, "--no-deps", f"--requirement={lock}"], environment)


def install_hook() -> None:
    """See torchvision_cpu.py: what it does, and why it must be in the environment itself."""
    shutil.copyfile(REQUIREMENTS / "torchvision_cpu.py", SITE_PACKAGES / f"{HOOK}.py")
    (SITE_PACKAGES / f"{HOOK}.pth").write_text(f"import {HOOK}; {HOOK}.install()\n")


def install_command() -> None:
    """The checkout's packages on the path, and `.venv/bin/deepintuit`; no build tool is needed."""
    (SITE_PACKAGES / "deepintuit.pth").write_text(f"{ROOT}\n")
    command = VENV / "bin" / "deepintuit"
    command.write_text(COMMAND.format(python=PYTHON))
    command.chmod(0o755)


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, env=environment, check=True)


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"setup: this did not work (its message is above): {' '.join(error.cmd)}")
