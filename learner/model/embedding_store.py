"""Store of a frozen vision tower's clip features on disk: an entry is whole or absent.

    SeenClip -> <key>.partial, locked -> rename -> <key>.safetensors -> mapped, checked SeenClip

Learners on one machine share the folder, epochs and runs one after another do too. An entry that is
cut, changed or belongs to another key is made anew, never used. The disk used is bounded
(video/eviction.py); where it is full, entries live in memory as long as they are needed.
"""

import hashlib
import json
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from torch import Tensor, uint8

from learner.shared_prefix.clip_features import ClipFeatures
from video.cache_folder import CacheFolder, is_disk_full
from wire.errors import DeadlineExceeded

_log = logging.getLogger(__name__)

_RECENT_BYTES = 2 * 2**30
_RECENT_CLIPS = 4096  # each is a file's mapping, of which a process may have 65,530
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

    def digest(self) -> str:
        """Hash of the whole entry."""
        tensors = self._tensors()
        shapes = {name: [str(t.dtype), *t.shape] for name, t in tensors.items()}
        header = [self.key, self.grid_thw, self.seconds_per_grid.hex(), shapes]
        digest = hashlib.sha256(json.dumps(header).encode())
        for tensor in tensors.values():
            digest.update(tensor.contiguous().view(uint8).numpy().data)
        return digest.hexdigest()

    def write(self, file: BinaryIO) -> None:
        """Write the entry as safetensors. Not flushed to the disk: a power cut leaves a file whose
        digest is wrong."""
        from safetensors.torch import save

        entry = {
            "key": self.key,
            "grid_thw": self.grid_thw,
            "seconds_per_grid": self.seconds_per_grid.hex(),
            "digest": self.digest(),
        }
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors().items()}
        file.write(save(tensors, {"entry": json.dumps(entry)}))
        file.flush()


class Damaged(Exception):
    """The file is not a whole entry of its name; the caller computes it anew."""


def read(path: Path) -> SeenClip:
    """Map an entry and check it. Raises Damaged, and FileNotFoundError if there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            entry = json.loads(file.metadata()["entry"])
            names = list(file.keys())
            layers = sorted((n for n in names if n != "embeds"), key=lambda n: int(n.split(".")[1]))
            embeds, *deepstack = (file.get_tensor(name) for name in ("embeds", *layers))
            t, h, w = entry["grid_thw"]
            seen = SeenClip(
                key=entry["key"],
                features=ClipFeatures(embeds, tuple(deepstack)),
                grid_thw=(t, h, w),
                seconds_per_grid=float.fromhex(entry["seconds_per_grid"]),
            )
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise Damaged(f"{path}: {error}") from error
    if seen.digest() != entry.get("digest"):
        raise Damaged(f"{path}: its content does not have its digest")
    if seen.key != path.stem:
        raise Damaged(f"{path}: it holds the entry {seen.key}")
    return seen


class EmbeddingStore:
    """Entries of one process: the most recently used in memory, all on disk up to a bound."""

    def __init__(
        self, folder: Path | None, max_bytes: int, recent_bytes: int = _RECENT_BYTES
    ) -> None:
        """``folder``: shared with other processes; None: memory alone."""
        self._recent_bytes = recent_bytes
        self._recent: OrderedDict[str, SeenClip] = OrderedDict()
        self._num_bytes = 0
        self._folder = None if folder is None else _open_folder(folder, max_bytes)

    def get(self, key: str) -> SeenClip | None:
        """The entry of a key; None if it has to be computed."""
        seen = self._recent.get(key) or self._read(key)
        if seen is not None:
            self._remember(seen)
            if self._folder is not None:
                self._folder.used(key)
        return seen

    def put(self, seen: SeenClip) -> SeenClip:
        """Keep a new entry. Returns the entry to use: mapped from disk, where it was written."""
        kept = seen
        if self._folder is not None and self._write(seen, self._folder):
            kept = self._read(seen.key) or seen
            self._folder.wrote(seen.num_bytes)
        self._remember(kept)
        return kept

    def _remember(self, seen: SeenClip) -> None:
        if (before := self._recent.pop(seen.key, None)) is not None:
            self._num_bytes -= before.num_bytes
        self._recent[seen.key] = seen
        self._num_bytes += seen.num_bytes
        while self._num_bytes > self._recent_bytes or len(self._recent) > _RECENT_CLIPS:
            self._num_bytes -= self._recent.popitem(last=False)[1].num_bytes

    def _read(self, key: str) -> SeenClip | None:
        if self._folder is None:
            return None
        try:
            return read(self._folder.file(key))
        except FileNotFoundError:
            return None
        except Damaged as error:
            _log.warning("%s; making it anew", error)
            return None

    def _write(self, seen: SeenClip, folder: CacheFolder) -> bool:
        """False if it is not on disk: there is no room, or another writer hangs."""
        try:
            with folder.locked(seen.key, time.monotonic() + _PATIENCE_S) as opened:
                return folder.write(seen.key, opened, seen.write)
        except DeadlineExceeded as error:
            _log.warning("%s; keeping it in memory", error)
            return False
        except OSError as error:
            if not is_disk_full(error):
                raise
            folder.make_room(error)  # not even for the file's name
            return False


def _open_folder(path: Path, max_bytes: int) -> CacheFolder:
    return CacheFolder(
        path,
        max_bytes,
        what="the tower's embeddings",
        otherwise="they are computed again when memory has lost them",
    )
