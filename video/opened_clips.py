"""Memory of clips that could be opened: the next start asks the disk for their stamps alone.

    address -> size and time of change now -> as remembered: known; else: to be opened -> remembered

Kept in several files, of which any may be lost: one in the run directory for its resumes, one in
the node's cache for other runs of the same manifest. A clip that could not be opened is not
remembered.
"""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from video.address import Address
from wire.whole_file import replace_json

_LAYOUT = "1"
"""Version of the files: change it with what opening a clip proves."""
_THREADS = 32
"""Stamps asked at a time: a network disk takes a millisecond for each."""


class OpenedClips:
    """Clips that this or an earlier start has opened with one setting of the decoder."""

    def __init__(self, files: Sequence[Path], decoder: str) -> None:
        """Reads the files that are there; what cannot be read is forgotten."""
        self._files, self._spec = files, f"{_LAYOUT} {decoder}"
        self._stamps: dict[str, str] = {}
        for file in files:
            self._stamps |= self._read(file)
        self._now: dict[Path, str | None] = {}
        self._opened: dict[str, str] = {}

    def unknown(self, addresses: Iterable[Address]) -> list[Address]:
        """The addresses that have to be opened: never opened, changed since, or gone."""
        addresses = list(addresses)
        paths = list(dict.fromkeys(address.path for address in addresses))
        with ThreadPoolExecutor(_THREADS) as threads:
            self._now |= zip(paths, threads.map(_stamp, paths, chunksize=64), strict=True)
        unknown = []
        for address in addresses:
            key, stamp = _key(address), self._now[address.path]
            if stamp is not None and self._stamps.get(key) == stamp:
                self._opened[key] = stamp
            else:
                unknown.append(address)
        return unknown

    def add(self, address: Address) -> None:
        """Remember an address that :meth:`unknown` gave and that could be opened."""
        if (stamp := self._now.get(address.path)) is not None:
            self._opened[_key(address)] = stamp

    def save(self) -> None:
        """Write the files; one that cannot be written is left as it is."""
        for file in self._files:
            with suppress(OSError):
                file.parent.mkdir(parents=True, exist_ok=True)
                replace_json(file, {"spec": self._spec, "opened": self._stamps | self._opened})

    def _read(self, file: Path) -> dict[str, str]:
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return dict(values["opened"]) if values["spec"] == self._spec else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def _key(address: Address) -> str:
    return str(replace(address, view=None))


def _stamp(path: Path) -> str | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return f"{status.st_size} {status.st_mtime_ns}"
