"""Full disks: turns their errors, from our files, torch, safetensors, Arrow or Ray, into DiskFull.

    any error -> its causes, and what they say -> DiskFull("the disk of PATH is full ...")

Libraries wrap the system's error in one of their own, and an exception that has crossed processes
has lost its causes, so the texts are read, too.
"""

import errno
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wire.errors import DiskFull

REMEDY = "free some and --resume"
"""What to do in a command that can go on."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_SAID = re.compile(r"No space left on device|os error 28\b|Disk quota exceeded|disk is full")
# torch says no more than this, whatever the reason: then the disk itself is asked
_TORCH = re.compile(r"PytorchStreamWriter failed|inline_container.*(fail|unexpected pos)")
_NEARLY_FULL_BYTES = 64 * 2**20


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Raise DiskFull in place of an error in the block that was caused by a full disk at
    ``path``."""
    try:
        yield
    except Exception as error:
        if (full := full_disk(error, [path])) is not None:
            raise full from error
        raise


def full_disk(error: BaseException, places: Sequence[Path]) -> DiskFull | None:
    """The DiskFull behind an error, or None; ``places``: paths that the process writes to.

    Where the error does not name its file, the place with the least room is named.
    """
    errors = list(_behind(error, set()))
    for one in errors:
        if isinstance(one, DiskFull):
            return one
    full = next((one for one in errors if _says_full(one)), None)
    if full is None:
        if not any(_TORCH.search(str(one)) for one in errors):
            return None
        if min(map(_free_bytes, places), default=_NEARLY_FULL_BYTES) >= _NEARLY_FULL_BYTES:
            return None
    name = getattr(full, "filename", None)
    where = Path(name) if isinstance(name, str) else min(places, key=_free_bytes, default=None)
    if where is None:
        return DiskFull(f"a disk is full: {REMEDY}")
    free = _free_bytes(where) / 1e9
    return DiskFull(f"the disk of {where} is full ({free:.1f} GB free): {REMEDY}")


def _behind(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    """An error, the errors that it wraps, and its causes."""
    if not isinstance(error, BaseException) or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    inner = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    for other in (*inner, getattr(error, "cause", None), error.__cause__, error.__context__):
        yield from _behind(other, seen)


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return True
    return _SAID.search(str(error)) is not None


def _free_bytes(path: Path) -> int:
    """Free bytes on the disk of a path that may not exist yet, or any more."""
    for place in (path, *path.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return _NEARLY_FULL_BYTES
