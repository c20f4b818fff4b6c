"""Store of a frozen vision tower's clip features on disk: an entry is whole or absent.

    SeenClip -> its file, whole or absent (video/disk_cache/) -> read, checked SeenClip

Learners on one machine share the folder, epochs and runs one after another do too. An entry that is
cut, changed or belongs to another key is made anew, never used. The disk used is bounded: of more
entries than fit, a fixed random subset is written and no other (video/disk_cache/retention.py).
Where the disk is full or fails, entries live in memory as long as they are needed.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, bfloat16, float16, float32, from_numpy, uint8

from learner.shared_prefix.clip_features import ClipFeatures
from video.disk_cache.entry_file import Damaged, Stored, pack, unpack
from video.disk_cache.file_system import Content, FileSystem
from video.disk_cache.folder import CacheFolder

_NAMES = {bfloat16: "BF16", float16: "F16", float32: "F32"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}

RECENT_BYTES = 2 * 2**30
_PATIENCE_S = 10.0  # for another writer of the same entry; then it is kept in memory alone


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenClip:
    """Cached entry of one clip: the frozen tower's features, and the grid and timing that positions
    need."""

    key: str
    """Cache key of clip, sampling, processor and the tower's weights
    (learner/model/embedding_cache.py)."""
    features: ClipFeatures
    """Vision-tower features, on CPU."""
    grid_thw: tuple[int, int, int]
    seconds_per_grid: float

    @property
    def num_tokens(self) -> int:
        """Number of video tokens that the features stand for."""
        return len(self.features.embeds)

    @property
    def num_bytes(self) -> int:
        """Size of the feature tensors."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def _tensors(self) -> dict[str, Tensor]:
        layers = enumerate(self.features.deepstack)
        return {"embeds": self.features.embeds} | {f"deepstack.{n}": layer for n, layer in layers}

    def parts(self) -> Sequence[bytes | memoryview]:
        """The parts of the entry's file, in order."""
        described = {"grid_thw": self.grid_thw, "seconds_per_grid": self.seconds_per_grid.hex()}
        tensors = {
            name: Stored(_NAMES[x.dtype], tuple(x.shape), _bytes(x))
            for name, x in self._tensors().items()
        }
        return pack(self.key, described, tensors)


def parse(key: str, content: Content) -> SeenClip:
    """The entry in a file. Raises Damaged."""
    described, stored = unpack(key, content)
    try:
        layers = sorted((n for n in stored if n != "embeds"), key=lambda n: int(n.split(".")[1]))
        embeds, *deepstack = (_tensor(stored[name]) for name in ("embeds", *layers))
        t, h, w = described["grid_thw"]
        return SeenClip(
            key=key,
            features=ClipFeatures(embeds, tuple(deepstack)),
            grid_thw=(t, h, w),
            seconds_per_grid=float.fromhex(described["seconds_per_grid"]),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:  # another version of us
        raise Damaged(str(error)) from error


def _bytes(tensor: Tensor) -> memoryview:
    flat: memoryview = tensor.contiguous().flatten().view(uint8).numpy().data
    return flat


def _tensor(stored: Stored) -> Tensor:
    return from_numpy(stored.data).view(_DTYPES[stored.dtype]).reshape(stored.shape)


class EmbeddingStore:
    """Entries of one process: the most recently used in memory, all on disk up to a bound."""

    def __init__(
        self,
        folder: Path | None,
        max_bytes: int,
        recent_bytes: int = RECENT_BYTES,
        files: FileSystem | None = None,
    ) -> None:
        """``folder``: shared with other processes; None: memory alone."""
        self._recent_bytes = recent_bytes
        self._recent: OrderedDict[str, SeenClip] = OrderedDict()
        self._num_bytes = 0
        self._folder = None if folder is None else _open_folder(folder, max_bytes, files)

    def get(self, key: str) -> SeenClip | None:
        """The entry of a key; None if it has to be computed."""
        seen = self._recent.get(key)
        if seen is None and self._folder is not None:
            seen = self._folder.read(key, partial(parse, key))
        if seen is not None:
            self._remember(seen)
            if self._folder is not None:
                self._folder.used(key)
        return seen

    def has(self, key: str) -> bool:
        """Whether there is an entry, without reading it. Safe to call from any thread."""
        return key in self._recent or (self._folder is not None and self._folder.has(key))

    def put(self, seen: SeenClip) -> SeenClip:
        """Keep a new entry, in memory and, where it is of those that stay there, on disk; the one
        to use."""
        if self._folder is not None and self._folder.keeps(seen.key):
            with self._folder.making(seen.key, time.monotonic() + _PATIENCE_S) as place:
                if place is not None:
                    self._folder.write(place, seen.parts())
        self._remember(seen)
        return seen

    def _remember(self, seen: SeenClip) -> None:
        if (before := self._recent.pop(seen.key, None)) is not None:
            self._num_bytes -= before.num_bytes
        self._recent[seen.key] = seen
        self._num_bytes += seen.num_bytes
        while self._num_bytes > self._recent_bytes:
            self._num_bytes -= self._recent.popitem(last=False)[1].num_bytes


def _open_folder(path: Path, max_bytes: int, files: FileSystem | None) -> CacheFolder:
    return CacheFolder(
        path,
        max_bytes,
        what="the tower's embeddings",
        otherwise="they are computed again when memory has lost them",
        files=files,
    )
