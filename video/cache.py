"""Cache of processed clips, made once per content, sampling and processor, and kept on local disk.

    address -> content hash + window + view -> clip key -> recent clips -> file in cache_dir
                                                               -> decode, view, process

An address is a path, perhaps with a time window and a view (video/address.py). Workers on one
machine share the folder: whoever wants a clip that another is just making waits for it; a maker
that is killed releases its lock with its death. Clips are decoded in processes of their own
(video/pool.py), and the disk used is bounded: of more clips than fit, a fixed random subset stays,
and those used last (video/disk_cache/retention.py). Where the disk is full or fails, clips are made
anew each time instead.
"""

import hashlib
import logging
import stat
import threading
import time
from collections import Counter, OrderedDict
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from video import clip_file
from video.address import Address
from video.config import VideoConfig
from video.decode import DecodedClip
from video.disk_cache.file_system import FileSystem
from video.disk_cache.folder import CacheFolder
from video.disk_cache.retention import WINDOW_SHARE
from video.disk_faults import patiently
from video.pool import DecodePool
from video.processor import ProcessedClip
from video.view import apply_view
from wire.errors import ClipError, DeepIntuitError, ParityError
from wire.types import stable_hash

_log = logging.getLogger(__name__)

_LAYOUT = "3"
"""Part of every key: change it with anything that changes pixels and has no other part in it. 3:
mirrors of display matrices, which stream is the video, times of raw and of joined streams."""
_RECENT_CLIPS = 16
_RECENT_BYTES = 512 * 2**20
_PROCESSING_S = 60.0
_KNOWN_HASHES = 2**18
"""Files whose content's hash is remembered: about 100 MB."""


class Processor(Protocol):
    """Turns frames into model input: ``video.processor.ClipProcessor``, or a fake in tests."""

    @property
    def processor_hash(self) -> str:
        """Hash that changes whenever the result of ``process`` would."""
        ...

    def pixel_bounds(self, config: VideoConfig) -> tuple[int, int]:
        """Least and most pixels per frame. Raises ConfigError if the recipe cannot be followed."""
        ...

    def process(self, clip: DecodedClip, config: VideoConfig, *, clip_key: str) -> ProcessedClip:
        """Process one clip. Raises ClipError if the clip does not suit the model."""
        ...


class ClipStore:
    """The clip cache of one process. Safe to call from several threads."""

    def __init__(
        self,
        cache_dir: str | Path,
        processor: Processor,
        config: VideoConfig,
        pool: DecodePool | None = None,
        files: FileSystem | None = None,
    ) -> None:
        """``pool``: decoders; none: a pool of its own. Raises ConfigError if the recipe's pixel
        bounds contradict the processor's."""
        processor.pixel_bounds(config)
        self._pool = pool or DecodePool(config)
        self._folder = CacheFolder(
            Path(cache_dir),
            int(config.cache_max_gb * 2**30),
            what="clips",
            otherwise="they are decoded anew each time they are used",
            window_share=WINDOW_SHARE,
            files=files,
        )
        self._processor = processor
        self._config = config
        self._spec = config.model_dump(
            include={"fps", "min_frames", "max_frames", "min_pixels", "max_pixels"}
        )
        if config.total_pixels is not None:
            self._spec["total_pixels"] = config.total_pixels
        self._recent = _Recent()
        self._content = _ContentHashes()
        self._counting = threading.Lock()
        self._counted = set[str]()  # clips made ready ahead, until they are asked for
        self.hits = 0
        """Clips found in memory or on disk."""
        self.misses = 0
        """Clips decoded and processed here."""
        self.decoded = Counter[str]()
        """Clips decoded here, by decoder: "decord", "pyav"."""
        self._reasons = set[str]()

    @property
    def decoders_lost(self) -> int:
        """Decoder processes so far that died, hung or wrote nonsense."""
        return self._pool.num_lost

    def key_of(self, address: str | Path) -> str:
        """The clip key. Raises ClipError if the file cannot be read, or there is no such
        window or view."""
        source = _video_at(address)
        return self._key(source, self._content.of(source.path))

    def get(self, address: str | Path) -> ProcessedClip:
        """The processed clip at an address.

        Raises ClipError if the file cannot be decoded, or there is no such window or view.
        """
        source = _video_at(address)
        content_hash = self._content.of(source.path)
        key = self._key(source, content_hash)
        return self._find(key) or self._make_once(key, source, content_hash)

    def prepare(self, address: str | Path) -> None:
        """Make a clip ready that is about to be asked for; its hit or miss counts now instead of
        then.

        What is wrong with it is said to who asks.
        """
        with suppress(DeepIntuitError):
            key = self.get(address).clip_key
            with self._counting:
                self._counted.add(key)

    def load(self, clip_key: str, address: str | Path, fingerprint: str) -> ProcessedClip:
        """The processed clip that the rollout saw under ``clip_key``; made anew from ``address`` if
        the cache lacks it.

        Raises ParityError if the fingerprint differs from the rollout's.
        """
        clip = self._find(clip_key) or self.get(address)
        return self._checked(clip, clip_key, address, fingerprint)

    def _checked(
        self, clip: ProcessedClip, clip_key: str, address: str | Path, fingerprint: str
    ) -> ProcessedClip:
        """A clip that is the one the rollout saw. Raises ParityError."""
        if clip.fingerprint != fingerprint:
            raise ParityError(
                f"clip {address} ({clip_key}) differs from what the rollout saw: fingerprint here "
                f"{clip.fingerprint}, in the rollout {fingerprint}; "
                "was the file, the recipe or the processor changed?"
            )
        return clip

    def has(self, clip_key: str) -> bool:
        """Whether a clip is ready: in memory, or on this node's disk."""
        return self._recent.get(clip_key) is not None or self._folder.has(clip_key)

    def _key(self, source: Address, content_hash: str) -> str:
        # what is not there has no part in the key: it need not change for other clips
        window = source.window
        parts: list[object] = [] if window is None else [["t", window.start_s, window.end_s]]
        parts += [] if source.view is None else [source.view]
        processor = self._processor.processor_hash
        return stable_hash(_LAYOUT, content_hash, self._spec, processor, *parts)[:40]

    def _find(self, key: str) -> ProcessedClip | None:
        clip = self._recent.get(key) or self._read(key)
        if clip is not None:
            self._recent.put(clip)
            self._folder.used(key)
            with self._counting:
                self.hits += key not in self._counted
                self._counted.discard(key)
        return clip

    def _read(self, key: str) -> ProcessedClip | None:
        return self._folder.read(key, partial(clip_file.parse, key))

    def _make_once(self, key: str, source: Address, content_hash: str) -> ProcessedClip:
        patience = 2 * self._config.decode_timeout_s + _PROCESSING_S  # by decord, then by PyAV
        # a helper first: who holds the place never waits in the queue for one
        with (
            self._pool.helper() as helper,
            self._folder.making(key, time.monotonic() + patience) as place,
        ):
            made_meanwhile = self._find(key)
            if made_meanwhile is not None:
                return made_meanwhile
            decoded = helper.decode(source.path, source.window)
            clip = self._process(decoded, key, source, content_hash)
            if place is not None:
                self._folder.write(place, clip_file.parts_of(clip))
        self._recent.put(clip)
        with self._counting:
            self.misses += 1
        return clip

    def _process(
        self, decoded: DecodedClip, key: str, source: Address, content_hash: str
    ) -> ProcessedClip:
        self._count(source, decoded.not_by_decord)
        if source.view is not None:
            decoded = apply_view(source.view, decoded, content_hash)
        try:
            clip = self._processor.process(decoded, self._config, clip_key=key)
        except ClipError as error:
            raise ClipError(f"cannot use {source.path}: {error}") from error
        return replace(
            clip,
            video_hash=content_hash,
            window=source.window,
            frame_indices=decoded.frame_indices,
        )

    def _count(self, source: Address, not_by_decord: str | None) -> None:
        with self._counting:
            self.decoded["decord" if not_by_decord is None else "pyav"] += 1
            is_new = not_by_decord is not None and not_by_decord not in self._reasons
            self._reasons.add(not_by_decord or "")
        if is_new:
            _log.info("PyAV decodes %s, the first of its kind: %s", source.path, not_by_decord)


def _video_at(address: str | Path) -> Address:
    """An address of a video. Raises ClipError for that of a narrative."""
    source = Address.parse(address)
    if source.tokens is not None:
        raise ClipError(
            f"{address} asks for a narrative, and clips are shown as videos here; leave "
            f"tokens={source.tokens} away"
        )
    return source


class _Recent:
    """The most recently used clips, bounded by count and bytes."""

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
            return patiently(lambda: self._of(path), path)
        except OSError as error:
            raise ClipError(f"cannot read {path}: {error.strerror}") from error

    def _of(self, path: Path) -> str:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise ClipError(f"cannot read {path}: not a file")
        seen = (str(path), status.st_size, status.st_mtime_ns)
        if seen not in self._known:
            with path.open("rb") as file:
                self._known[seen] = hashlib.file_digest(file, "sha256").hexdigest()
            while len(self._known) > _KNOWN_HASHES:  # a service meets ever new files
                self._known.pop(next(iter(self._known)), None)
        return self._known[seen]
