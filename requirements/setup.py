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
from dataclasses import dataclass
from pathlib import Path

from package_index import index_flags, pinned, pip_settings, torch_flags, uv_environment

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"

MADE_BY = ("package_index.py", "setup.py", "torchvision_cpu.py")
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


@dataclass(frozen=True)
class Environment:
    """Virtual environment of one lock: its folder, and places in it."""

    folder: Path
    device: str

    @property
    def lock(self) -> Path:
        """The lock that is installed into it."""
        return REQUIREMENTS / f"{self.device}.txt"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        """Where its packages are."""
        return self.folder / "lib" / "python3.11" / "site-packages"

    @property
    def stamp(self) -> Path:
        """The file that is written when all is installed."""
        return self.folder / "deepintuit-setup.stamp"


def main() -> None:
    """Bring .venv up to date, or say what is in the way."""
    refuse_other_machines()
    bring_up_to_date(Environment(ROOT / ".venv", choose_device(os.environ, has_nvidia_gpu)))


def refuse_other_machines() -> None:
    """End with the reason where the locks cannot be installed."""
    problem = unsupported(sys.version_info[:2], platform.system(), platform.machine())
    if problem:
        sys.exit(f"setup: {problem}")


def bring_up_to_date(venv: Environment) -> None:
    """Build an environment from its lock, unless it is there already."""
    with one_at_a_time():
        stamp = fingerprint(venv)
        if not is_ready(venv, stamp):
            started = time.monotonic()
            names = [path.relative_to(ROOT) for path in (venv.folder, venv.lock)]
            say("building {} from {}; minutes where nothing is cached".format(*names))
            build(venv)
            venv.stamp.write_text(stamp)
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


def fingerprint(venv: Environment) -> str:
    """Changes whenever the finished environment would."""
    # The checkout's own place is in the environment's scripts and in its path file.
    digest = hashlib.sha256(f"{venv.device} {ROOT}".encode())
    for file in (venv.lock, *(REQUIREMENTS / name for name in MADE_BY)):
        digest.update(file.read_bytes())
    return f"{venv.device} {digest.hexdigest()}\n"


def is_ready(venv: Environment, stamp: str) -> bool:
    """Whether the last set-up finished, was this one, and has lost no package since."""
    finished = venv.stamp.is_file() and venv.python.exists() and venv.stamp.read_text() == stamp
    return finished and not missing(
        pinned(venv.lock), [path.name for path in venv.site_packages.iterdir()]
    )


def missing(packages: Mapping[str, str], installed: list[str]) -> set[str]:
    """Pinned packages without their `name-version.dist-info` folder."""
    folders = [name[: -len(".dist-info")] for name in installed if name.endswith(".dist-info")]
    present = {re.sub("[-_.]+", "-", name.rpartition("-")[0]).lower() for name in folders}
    return set(packages) - present


def build(venv: Environment) -> None:
    """Everything but the stamp, from nothing."""
    packages = pinned(venv.lock)
    run([sys.executable, "-m", "venv", "--clear", str(venv.folder)])
    pip = [str(venv.python), "-m", "pip"]
    run([*pip, "install", "--quiet", "--quiet", f"uv=={packages['uv']}"])
    listing = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=True)
    settings = pip_settings(listing.stdout)
    uv = [str(venv.folder / "bin/uv"), "pip", "install", "--quiet", f"--python={venv.python}"]
    try:
        install([*uv, *index_flags(settings)], venv, uv_environment(settings))
    except subprocess.CalledProcessError:
        say("uv did not manage; once more with pip, which is slower")
        install([*pip, "install", "--quiet"], venv, {})
    install_hook(venv)
    install_command(venv)


def install(installer: list[str], venv: Environment, environment: dict[str, str]) -> None:
    """torch from where its build is offered, then the rest of the lock."""
    torch = next(line for line in venv.lock.read_text().splitlines() if line.startswith("torch="))
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
    run([*installer, "--no-deps", *torch_flags(offered, venv.device), torch], environment)
    run([*installer, "--no-deps", f"--requirement={venv.lock}"], environment)


def install_hook(venv: Environment) -> None:
    """See torchvision_cpu.py: what it does, and why it must be in the environment itself."""
    shutil.copyfile(REQUIREMENTS / "torchvision_cpu.py", venv.site_packages / f"{HOOK}.py")
    (venv.site_packages / f"{HOOK}.pth").write_text(f"import {HOOK}; {HOOK}.install()\n")


def install_command(venv: Environment) -> None:
    """The checkout's packages on the path, and `bin/deepintuit`; no build tool is needed."""
    (venv.site_packages / "deepintuit.pth").write_text(f"{ROOT}\n")
    command = venv.folder / "bin" / "deepintuit"
    command.write_text(COMMAND.format(python=venv.python))
    command.chmod(0o755)


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, env=environment, check=True)


def failure(error: subprocess.CalledProcessError) -> str:
    """The last line for a user whose installation failed."""
    return f"setup: this did not work (its message is above): {' '.join(error.cmd)}"


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(failure(error))
