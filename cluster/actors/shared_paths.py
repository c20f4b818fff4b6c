"""Paths that every node must see: proved on each node of a run before an engine or rank starts.

    run directory (a file that the driver has just written), model, clips -> a look on each node

A node that sees another run directory, or none, would be noticed at the first checkpoint, hours
later. The look needs no model and no GPU; it takes about a second, on all nodes at once.
"""

import asyncio
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError, RuntimeEnvSetupError

from cluster.actors.deadlines import with_deadline
from cluster.actors.placement import Reservation, Seat
from wire.errors import PlacementError

_PATIENCE_S = 5.0  # a network disk may show a new file late
_SHOWN = 4  # faults in one message


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPaths:
    """Paths as the driver sees them, for each node to compare.

    Example:
        SharedPaths(run_dir="/shared/runs/a", proof="/shared/runs/a/.seen-5f3a",
                    folders={"/models/qwen": {"config.json": 1320}},
                    clips={"/clips/1.mp4": 80123})
    """

    run_dir: str
    proof: str
    """A file in the run directory that was written for this look."""
    folders: dict[str, dict[str, int]]
    """Model folders, with the sizes of their files."""
    clips: dict[str, int]
    """Some of the clips, with their sizes."""


Look = Callable[[SharedPaths], tuple[str, list[str]]]


def look(paths: SharedPaths) -> tuple[str, list[str]]:
    """Host name of this node, and what it does not see as the driver does."""
    faults = _run_dir_faults(paths)
    for folder, sizes in paths.folders.items():
        faults += _folder_faults(Path(folder), sizes)
    unseen = [clip for clip, size in paths.clips.items() if _size(Path(clip)) != size]
    if unseen:
        faults.append(
            f"it does not see the clip {unseen[0]} (nor {len(unseen) - 1} more of "
            f"{len(paths.clips)} that were tried), or sees another file there: clips must lie on a "
            "disk that all nodes share, or on each node under the same path"
        )
    return socket.gethostname(), faults


def _run_dir_faults(paths: SharedPaths) -> list[str]:
    remedy = "give --run-dir a folder on a disk that all nodes share"
    end = time.monotonic() + _PATIENCE_S
    while not os.path.exists(paths.proof):  # noqa: PTH110 - false where the disk fails
        if time.monotonic() > end:
            has_one = Path(paths.run_dir).is_dir()
            what = "has a folder of its own as" if has_one else "does not see"
            return [f"it {what} the run directory {paths.run_dir}: {remedy}"]
        time.sleep(0.2)
    try:
        with tempfile.TemporaryFile(dir=paths.run_dir):
            return []
    except OSError as error:
        return [f"it cannot write the run directory {paths.run_dir} ({error.strerror}): {remedy}"]


def _folder_faults(folder: Path, sizes: dict[str, int]) -> list[str]:
    wrong = [name for name, size in sizes.items() if _size(folder / name) != size]
    if not wrong:
        return []
    what = f"does not see the model {folder}"
    if len(wrong) < len(sizes):
        what = f"lacks files of the model {folder}, or has others ({', '.join(wrong[:3])})"
    if any(part.startswith("models--") for part in folder.parts):  # the hub's cache
        return [f"it {what}: set HF_HOME to a folder that all nodes share, or fetch it there too"]
    return [f"it {what}: give 'model' as a path that all nodes see, or copy it there"]


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


async def require_shared(
    seats: Reservation,
    run_dir: Path,
    models: Iterable[Path],
    clips: Sequence[Path],
    timeout_s: float,
    look: Look = look,
) -> None:
    """Raise PlacementError that names nodes and paths, unless each node of a run sees the run
    directory, the models and the clips. On the driver's own node alone there is nothing to prove.
    """
    by_node = {seat.node: seat for seat in (*seats.workers, *seats.ranks)}
    by_node.pop(ray.get_runtime_context().get_node_id(), None)
    if not by_node:
        return
    proof = run_dir / f".seen-{uuid.uuid4().hex}"
    paths = SharedPaths(
        run_dir=str(run_dir),
        proof=str(proof),
        folders={str(model): _sizes(model) for model in models},
        clips={str(clip): size for clip in clips if (size := _size(clip)) is not None},
    )
    proof.touch()
    try:
        seen = await asyncio.gather(
            *[_look_from(seat, paths, timeout_s, look) for seat in by_node.values()]
        )
    finally:
        proof.unlink(missing_ok=True)
    faults = [
        f"node {host} ({node}): {fault}"
        for node, (host, unseen) in zip(by_node, seen, strict=True)
        for fault in unseen
    ]
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise PlacementError(f"{'; '.join(faults[:_SHOWN])}{more}")


async def _look_from(
    seat: Seat, paths: SharedPaths, timeout_s: float, look: Look
) -> tuple[str, list[str]]:
    remote: Any = ray.remote(look)
    call = remote.options(**seat.options(0, 0), max_retries=0).remote(paths)
    what = f"node {seat.node} to look at the run directory and the model"
    try:
        seen: tuple[str, list[str]] = await with_deadline(call, timeout_s, what)
    except (RayTaskError, RuntimeEnvSetupError) as error:  # it cannot even import us
        cause = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
        raise PlacementError(
            f"node {seat.node} cannot run this project's code: {cause}; install the same Python "
            "environment there, and start the job with --working-dir"
        ) from error
    return seen


def _sizes(folder: Path) -> dict[str, int]:
    """Sizes of a folder's own files."""
    return {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
