"""Intake of clips: an upload, a path or a URL -> a clip whose file stays what it is.

    upload -> ClipStore (hashed while it streams) -+
    URL    -> Downloads -> ClipStore --------------+-> inspector -> limits -> AdmittedClip
    path   -> allowed root (roots.py), hashed -----+

What is refused is refused before it takes a place in the queue, and leaves no file behind. A path's
clip is not copied: its open file is handed on, so a file put in its place is not seen. Bytes
written into it meanwhile show in the hash of what the classifier read (Evidence.video_hash).
"""

import asyncio
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import AsyncIterable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from calibrate.service.config import ServiceConfig
from calibrate.service.intake.downloads import Downloads, Resolve, resolve
from calibrate.service.intake.limits import ClipLimits, refusal_of
from calibrate.service.intake.names import shown_name, shown_url
from calibrate.service.intake.roots import OpenedFile, Roots
from calibrate.service.intake.store import ClipStore, Incoming, KeptClip
from calibrate.service.problems import Problem
from calibrate.service.protocols import ClipFacts, ClipInspector
from wire.errors import DeepIntuitError, NoVideo

Source = Literal["upload", "path", "url"]
T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)

_THREADS = 8
"""They write, hash and sync; a disk does not do more at a time."""
_BUFFER = 2**20
_REMEMBERED = 4096
_OPEN = "open"
"""Folder of the state directory: names of open files of paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedClip:
    """Clip that was let in. Its file stays what it is for as long as this object lives.

    Example:
        AdmittedClip(path=Path("state/clips/9f/9f3c..."), video_hash="9f3c...", name="cat.mp4",
                     source="upload", facts=ClipFacts(seconds=2.0, frames=16, ...))
    """

    path: Path
    """For decoders, on this machine."""
    video_hash: str
    """SHA-256 of its bytes, as the archive's column of that name."""
    name: str
    """For people: the upload's file name, the whole path, the URL without its query."""
    source: Source
    facts: ClipFacts
    keeper: object = field(repr=False, compare=False)
    """Keeps its file as it is."""

    def refuse_changed(self, video_hash: str) -> None:
        """Refuse a clip of which a decoder read other bytes than were let in: ``video_hash`` is of
        what it read (none: not known). Raises Problem 409."""
        if video_hash and video_hash != self.video_hash:
            raise Problem(
                409, "clip-changed", f"{self.name} was written to while it was read; ask again"
            )

    def named(self, problem: Problem) -> Problem:
        """A problem with this clip, under the name that the client gave it."""
        return Problem(
            problem.status,
            problem.slug,
            self._named(problem.detail),
            headers=problem.headers,
            extra=self._named(problem.extra),
        )

    def _named(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._named(one) for key, one in value.items()}
        return value.replace(str(self.path), self.name) if isinstance(value, str) else value


class Intake:
    """Intake of clips. One for a service."""

    def __init__(
        self,
        config: ServiceConfig,
        inspector: ClipInspector,
        clips: ClipStore,
        *,
        resolver: Resolve = resolve,
    ) -> None:
        """Raises ConfigError if a root is none."""
        self._limits = ClipLimits(
            max_bytes=config.max_clip_bytes,
            max_seconds=config.max_seconds,
            max_frames=config.max_frames,
            max_pixels=config.max_pixels,
        )
        self._inspector, self._clips = inspector, clips
        self._timeout_s = config.request_timeout_s
        self._roots = Roots(config.roots, config.state / _OPEN, closed=config.state)
        self._downloads = Downloads(
            config.url_hosts,
            private_hosts=config.private_url_hosts,
            timeout_s=config.url_timeout_s,
            resolver=resolver,
        )
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="intake")
        # of their own: a disk that does not answer holds up no upload
        self._path_threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="clip-paths")
        self._facts = _Recent[str, ClipFacts]()
        self._hashes = _Recent[tuple[int, ...], str]()

    async def from_upload(self, stream: AsyncIterable[bytes], name: str) -> AdmittedClip:
        """Admit an upload, written to disk while it streams. Raises Problem 413 if it is too large
        or too long, 415 if it is no video, 422 if it is damaged, 507 if there is no room."""
        with closing(self.receive()) as receiving:
            async for chunk in stream:
                await receiving.write(chunk)
            return await self.admit(receiving, name)

    async def from_url(self, url: str) -> AdmittedClip:
        """Admit what is at a URL of an allowed host. Raises Problem 403 for others, 422 if it
        cannot be fetched, and those of ``from_upload``."""
        with closing(self.receive()) as receiving:
            await self._downloads.fetch(url, receiving.write)
            return await self._admit(receiving, shown_url(url), "url")

    def receive(self) -> "Receiving":
        """A clip that comes in chunk by chunk; ``admit`` it, and ``close`` it in any case."""
        return Receiving(self._clips.incoming(), self._limits, self._threads)

    async def admit(self, receiving: "Receiving", name: str) -> AdmittedClip:
        """Admit an upload that was received. Raises as ``from_upload``."""
        return await self._admit(receiving, shown_name(name), "upload")

    async def from_path(self, path: str) -> AdmittedClip:
        """Admit a file under an allowed root. Raises Problem 403 or 404, and those of
        ``from_upload``."""
        file = await self._of_disk(partial(self._roots.open, path), path)
        try:
            self._limits.check_bytes(file.size)
            video_hash = await self._of_disk(partial(self._hash_of, file), path)
            facts = await self._checked(file.alias, video_hash, path, "path")
            return AdmittedClip(
                path=file.alias,
                video_hash=video_hash,
                name=path,
                source="path",
                facts=facts,
                keeper=file,
            )
        finally:
            del file  # the traceback of a refusal would keep it open

    async def again(self, *, video_hash: str, source: Source, name: str) -> AdmittedClip:
        """Admit the clip of an earlier decision once more. Raises Problem 410 if it is not kept any
        longer, 409 if other bytes are under its path now."""
        if source == "path":
            clip = await self.from_path(name)
            if clip.video_hash != video_hash:
                raise Problem(
                    409, "clip-changed", f"{name} has other bytes than when it was decided about"
                )
            return clip
        kept = self._clips.open(video_hash)
        if kept is None:
            raise Problem(
                410, "clip-gone", f"{name} is not kept any longer (clip_store_gb); send it again"
            )
        facts = await self._checked(kept.path, video_hash, name, source)
        return _admitted(kept, name, source, facts)

    async def place_of(self, *, video_hash: str, source: Source, name: str) -> Path | None:
        """Absolute path of the clip of an earlier decision; None: it is gone, or has other bytes.
        Raises Problem 503 if its disk fails."""
        if source != "path":
            return await self._run(partial(self._clips.path_of, video_hash))
        return await self._of_disk(partial(self._unchanged, name, video_hash), name)

    def close(self) -> None:
        """End its threads."""
        self._threads.shutdown(wait=True)
        self._path_threads.shutdown(wait=False, cancel_futures=True)

    async def _admit(self, receiving: "Receiving", name: str, source: Source) -> AdmittedClip:
        incoming = await receiving.whole()
        facts = await self._checked(incoming.path, incoming.video_hash, name, source)
        return _admitted(await self._run(incoming.keep), name, source, facts)

    async def _checked(self, path: Path, video_hash: str, name: str, source: Source) -> ClipFacts:
        """Facts of a clip that is within the limits."""
        facts = self._facts.get(video_hash)
        if facts is None:
            try:
                async with asyncio.timeout(self._timeout_s):
                    facts = await self._inspector.inspect(path)
            except TimeoutError as error:  # of a clip's own deadline the inspector speaks itself
                raise Problem(
                    503,
                    "inspector-busy",
                    "too many other clips are being looked at; try again",
                    headers={"Retry-After": "10"},
                ) from error
            except NoVideo as error:
                if source == "upload":
                    raise refusal_of(error, path, name) from error
                # the reason may quote a file that the client cannot read itself
                raise Problem(415, "no-video", f"{name} is no video") from error
            except DeepIntuitError as error:
                raise refusal_of(error, path, name) from error
            self._facts.put(video_hash, facts)
        self._limits.check(facts)
        return facts

    def _hash_of(self, file: OpenedFile) -> str:
        before = file.identity
        if (known := self._hashes.get(before)) is not None:
            return known
        with os.fdopen(file.descriptor, "rb", buffering=0, closefd=False) as bytes_of:
            value = hashlib.file_digest(bytes_of, "sha256").hexdigest()
        if file.identity == before:
            self._hashes.put(before, value)
        return value

    def _unchanged(self, name: str, video_hash: str) -> Path | None:
        try:
            file = self._roots.open(name)
        except Problem:  # it is not there any longer, or its root is closed
            return None
        return file.place if self._hash_of(file) == video_hash else None

    async def _of_disk(self, call: Callable[[], T], path: str) -> T:
        """Result of a call about a path, whose disk may fail or not answer. Raises Problem 503."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await loop.run_in_executor(self._path_threads, call)
        except OSError as error:  # TimeoutError is one
            raise Problem(
                503,
                "clip-unreachable",
                f"{path} cannot be read: {error.strerror or 'its disk does not answer'}",
                headers={"Retry-After": "10"},
            ) from error

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


class Receiving:
    """Clip that comes in: hashed and written to disk, a megabyte at a time."""

    def __init__(self, incoming: Incoming, limits: ClipLimits, threads: ThreadPoolExecutor) -> None:
        self._incoming, self._limits, self._threads = incoming, limits, threads
        self._buffer = bytearray()

    async def write(self, chunk: bytes) -> None:
        """Append bytes. Raises Problem 413 if they are too many, 507 if there is no room."""
        self._limits.check_bytes(self._incoming.size + len(self._buffer) + len(chunk))
        self._buffer += chunk
        if len(self._buffer) >= _BUFFER:
            await self.whole()

    async def whole(self) -> Incoming:
        """What came so far, on disk."""
        data = bytes(self._buffer)
        self._buffer.clear()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._incoming.write, data)
        return self._incoming

    def close(self) -> None:
        """Delete what came, unless it was admitted."""
        self._incoming.discard()


def _admitted(kept: KeptClip, name: str, source: Source, facts: ClipFacts) -> AdmittedClip:
    return AdmittedClip(
        path=kept.path,
        video_hash=kept.video_hash,
        name=name,
        source=source,
        facts=facts,
        keeper=kept,
    )


class _Recent(Generic[Key, T]):
    """Values by key, those used last. Safe to use from threads."""

    def __init__(self) -> None:
        self._values: OrderedDict[Key, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> T | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: T) -> None:
        with self._lock:
            self._values[key] = value
            while len(self._values) > _REMEMBERED:
                self._values.popitem(last=False)
