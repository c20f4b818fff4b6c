"""Files that are whole or absent: written beside their place, then renamed.

    whole_file(PATH) -> NAME.partial -> fsync, if asked for -> rename -> PATH

A reader sees the old file or the new one, never half of one. Folders that appear whole are written
by their owners (wire/adapters.py, learner/checkpoint.py, learner/export.py).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wire.remote_path import RemotePath
from wire.strict_json import to_json


@contextmanager
def whole_file(path: Path, *, sync: bool = False, suffix: str = ".partial") -> Iterator[Path]:
    """A partial file to be written in the block; after it, renamed to ``path``.

    ``sync``: its bytes are on the disk before it has its name. ``suffix``: of the partial file's
    name. If the block or the rename fails, the partial file is removed.
    """
    partial = path.with_name(path.name + suffix)
    try:
        yield partial
        if sync:
            sync_to_disk(partial)
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync_to_disk(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, durable."""
    if isinstance(path, RemotePath):
        return  # an object is, from the moment it appears
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """A JSON file that appears whole and is then on the disk; makes its folder. A number that is
    not finite is null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_json(path, value, sync=True)


def replace_json(path: Path, value: Any) -> None:
    """``write_json`` for what may be lost when the machine goes down, into a folder that exists."""
    _write_json(path, value, sync=False)


def _write_json(path: Path, value: Any, *, sync: bool) -> None:
    with whole_file(path, sync=sync) as partial, partial.open("w") as file:
        file.write(to_json(value, indent=2))
