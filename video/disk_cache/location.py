"""Location of the caches on a node: the recipe's folder, the node's variable, or a temporary disk.

    video.cache_dir -> $DEEPINTUIT_CACHE_DIR -> $TMPDIR, /tmp or /var/tmp + deepintuit-UID

Each process asks on its own node, so that nodes may differ. A run directory is shared and a cache
need not be: what one node lacks, it makes anew. Keys name content and settings, so all runs of a
user share one cache.
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from video.config import VideoConfig

VARIABLE = "DEEPINTUIT_CACHE_DIR"
_MOUNTS = Path("/proc/self/mounts")
_IN_MEMORY = ("tmpfs", "ramfs")


def cache_folder(config: VideoConfig) -> Path:
    """Folder of the clip cache on this node."""
    if config.cache_dir is not None:
        return config.cache_dir
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    return default_folder([Path(tempfile.gettempdir()), Path("/var/tmp")])


def default_folder(temporary: Iterable[Path]) -> Path:
    """The user's own folder in the first temporary folder that lies on a disk, else in the first
    that may be written; in the home folder if others hold the name everywhere.

    It is made here, for this user alone: anyone may write to such a place.
    """
    mounts = _read_mounts()
    places = sorted(temporary, key=lambda place: in_memory(place, mounts))
    for place in places:
        folder = place / f"deepintuit-{os.getuid()}"
        if _is_ours(folder):
            return folder
    return Path.home() / ".cache" / "deepintuit"


def in_memory(folder: Path, mounts: str) -> bool:
    """Whether a folder lies in memory, by the lines of ``/proc/self/mounts``: a cache there takes
    memory from the model."""
    best, kind = "", ""
    path = f"{folder.resolve()}/"
    for line in mounts.splitlines():
        _, point, file_system, *_ = line.split()
        point = point.rstrip("/") + "/"
        if path.startswith(point) and len(point) >= len(best):
            best, kind = point, file_system
    return kind in _IN_MEMORY


def _read_mounts() -> str:
    try:
        return _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _is_ours(folder: Path) -> bool:
    """Make a folder, or see that it is this user's, and no link to another's."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and status.st_uid == os.getuid()
