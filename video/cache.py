"""Processed clips, made once per content, sampling and processor, and kept on local disk.

    address -> content hash + view -> clip key -> recent clips -> file in cache_dir
                                                       -> decode, view, process

An address is a path, or a path and a view (video/view.py) that is shown instead of the clip.
Workers on one machine share the folder: whoever wants a clip that another is just making waits for
it; a maker that is killed releases its lock with its death. Leaves out: a bound on the disk used.
"""

import fcntl
import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from video import clip_file
from video.config import VideoConfig
from video.decode import DecodedClip, decode
from video.processor import ProcessedClip
from video.view import View, apply_view, split_view
from wire.errors import ClipError, DeadlineExceeded, ParityError
from wire.types import stable_hash

_log = logging.getLogger(__name__)

_LAYOUT = "1"
"""Part of every key: change it with anything that changes pixels and has no other part in it."""
_RECENT_CLIPS = 16
_RECENT_BYTES = 512 * 2**20
_PROCESSING_S = 60.0
_POLL_S = 0.02


class Processor(Protocol):
    """What turns frames into model input: ``video.processor.ClipProcessor``, or a fake in tests."""

    @property
    def processor_hash(self) -> str:
        """Changes whenever the result of ``process`` would."""
        ...

    def pixel_bounds(self, config: VideoConfig) -> tuple[int, int]:
        """Raises ConfigError if the recipe cannot be followed."""
        ...

    def process(self, clip: DecodedClip, config: VideoConfig, *, clip_key: str) -> ProcessedClip:
        """Raises ClipError if the clip does not suit the model."""
        ...


class ClipStore:
    """The clip cache of one process. Safe to call from several threads."""

    def __init__(self, cache_dir: str | Path, processor: Processor, config: VideoConfig) -> None:
        """Raises ConfigError if the recipe's pixel bounds contradict the processor's."""
        processor.pixel_bounds(config)
        self._dir = Path(cache_dir)
        self._dir.mkdir(parents=True, exist_ok=True)
        self._processor = processor
        self._config = config
        self._spec = config.model_dump(
            include={"fps", "min_frames", "max_frames", "min_pixels", "max_pixels"}
        )
        self._recent = _Recent()
        self._content = _ContentHashes()
        self._counting = threading.Lock()
        self.hits = 0
        """Clips found in memory or on disk."""
        self.misses = 0
        """Clips decoded and processed here."""

    def key_of(self, address: str | Path) -> str:
        """The clip key. Raises ClipError if the file cannot be read, or the view is unknown."""
        return self._key(self._source(address))

    def get(self, address: str | Path) -> ProcessedClip:
        """The processed clip at an address. Raises ClipError if the file cannot be decoded, or the
        view is unknown."""
        source = self._source(address)
        key = self._key(source)
        return self._find(key) or self._make_once(key, source)

    def load(self, clip_key: str, address: str | Path, fingerprint: str) -> ProcessedClip:
        """What the rollout saw under ``clip_key``; made anew from ``address`` if it is not here.

        Raises ParityError if the fingerprint differs from the rollout's.
        """
        clip = self._find(clip_key) or self.get(address)
        if clip.fingerprint != fingerprint:
            raise ParityError(
                f"clip {address} ({clip_key}) differs from what the rollout saw: fingerprint here "
                f"{clip.fingerprint}, in the rollout {fingerprint}; "
                "was the file, the recipe or the processor changed?"
            )
        return clip

    def _source(self, address: str | Path) -> "_Source":
        path, view = split_view(address)
        return _Source(path=path, content_hash=self._content.of(path), view=view)

    def _key(self, source: "_Source") -> str:
        # a plain clip has no part for the view: caches from before there were views stay valid
        view = () if source.view is None else (source.view,)
        processor = self._processor.processor_hash
        return stable_hash(_LAYOUT, source.content_hash, self._spec, processor, *view)[:40]

    def _find(self, key: str) -> ProcessedClip | None:
        clip = self._recent.get(key) or self._read(key)
        if clip is not None:
            self._recent.put(clip)
            with self._counting:
                self.hits += 1
        return clip

    def _read(self, key: str) -> ProcessedClip | None:
        """From disk; None if it is not there, or damaged and so to be made anew."""
        try:
            return clip_file.read(self._file(key))
        except FileNotFoundError:
            return None
        except clip_file.Damaged as error:
            _log.warning("%s; making it anew", error)
            return None

    def _make_once(self, key: str, source: "_Source") -> ProcessedClip:
        partial = self._file(key).with_suffix(".partial")
        deadline = time.monotonic() + self._config.decode_timeout_s + _PROCESSING_S
        with _locked(partial, deadline) as file:
            made_meanwhile = self._find(key)
            if made_meanwhile is not None:
                partial.unlink()
                return made_meanwhile
            clip = self._make(key, source)
            file.truncate(0)  # a writer that died may have left some
            clip_file.write(clip, file)
            partial.rename(self._file(key))
        self._recent.put(clip)
        with self._counting:
            self.misses += 1
        return clip

    def _make(self, key: str, source: "_Source") -> ProcessedClip:
        decoded = decode(source.path, self._config)
        if source.view is not None:
            decoded = apply_view(source.view, decoded, source.content_hash)
        try:
            return self._processor.process(decoded, self._config, clip_key=key)
        except ClipError as error:
            raise ClipError(f"cannot use {source.path}: {error}") from error

    def _file(self, key: str) -> Path:
        return self._dir / key[:2] / f"{key}.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What a processed clip is made from."""

    path: Path
    content_hash: str
    view: View | None


@contextmanager
def _locked(partial: Path, deadline: float) -> Iterator[BinaryIO]:
    """The partial file, opened and locked by nobody else; removed if the body fails.

    The kernel drops the lock of a process that dies.
    """
    partial.parent.mkdir(exist_ok=True)
    while True:
        with partial.open("ab") as file:
            if not _try_lock(file):
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(
                        f"another process holds {partial} and has not finished its clip; "
                        "end it if it hangs"
                    )
                time.sleep(_POLL_S)
            elif _same_file(file, partial):
                try:
                    yield file
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise
                return
            # else its last owner renamed or removed it while this one waited: open the new one


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


class _Recent:
    """The clips used last, bounded by count and bytes."""

    def __init__(self) -> None:
        self._clips: OrderedDict[str, ProcessedClip] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> ProcessedClip | None:
        with self._lock:
            return self._clips.get(key)

    def put(self, clip: ProcessedClip) -> None:
        with self._lock:
            self._clips[clip.clip_key] = clip
            self._clips.move_to_end(clip.clip_key)
            while len(self._clips) > _RECENT_CLIPS or self._bytes() > _RECENT_BYTES:
                self._clips.popitem(last=False)

    def _bytes(self) -> int:
        return sum(clip.pixel_values.nbytes for clip in self._clips.values())


class _ContentHashes:
    """Content hash of a file, computed again only when its size or time of change differs."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], str] = {}

    def of(self, path: Path) -> str:
        try:
            status = path.stat()
            seen = (str(path), status.st_size, status.st_mtime_ns)
            if seen not in self._known:
                with path.open("rb") as file:
                    self._known[seen] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ClipError(f"cannot read {path}: {error.strerror}") from error
        return self._known[seen]
