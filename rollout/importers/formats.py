"""The formats by name.

To add one: a module with ``read(path) -> Iterator[Record]``, and a line in FORMATS.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rollout.importers import deepintuit, rbft
from rollout.importers.record import Record
from wire.types import Split

FORMATS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    "deepintuit": deepintuit.read,
    "rbft": rbft.read,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file to import, and the split its clips belong to.

    Example:
        Source(path=Path("test.json"), format="rbft", split=Split.TEST)
    """

    path: Path
    format: str
    split: Split | None = None
    """None: divided by ratio."""


def read(source: Source) -> Iterator[Record]:
    """The records of a source. Raises DataError gathering those that cannot be read."""
    return FORMATS[source.format](source.path)
