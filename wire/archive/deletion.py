"""Deletion of videos from an archive: tombstones in deleted.json, which every reader honours.

    delete_videos(directory, videos) -> deleted.json -> hidden at once -> compaction removes rows

A tombstone names a video by the hash of its content. Groups of a clip that could not be decoded,
and those written before there was a column for the hash, have none: they are known by the video's
address, of which the tombstone keeps a hash only, as it does of the samples' ids. A tombstone stays
when the rows are gone, so that a file that comes back is hidden too.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wire.archive.locks import deleting
from wire.errors import ArchiveError, ConfigError
from wire.types import stable_hash
from wire.whole_file import sync_to_disk, write_json

FILE = "deleted.json"
COLUMNS = ("video", "video_hash")
"""Columns that tell whose rows are deleted."""
_HASH = re.compile(r"[0-9a-f]{64}")
_FRAGMENT = re.compile(r"#(t|view)=[^#]*$")


@dataclass(frozen=True, slots=True)
class Deletions:
    """Tombstones of an archive: which rows are deleted."""

    hashes: frozenset[str] = frozenset()
    """Content hashes of the videos."""
    addresses: frozenset[str] = frozenset()
    """Hashes of their addresses, for rows without a content hash."""
    samples: frozenset[str] = frozenset()
    """Hashes of the ids of their samples, for files that know a video by these alone."""

    def __bool__(self) -> bool:
        return bool(self.hashes or self.addresses)

    def names(self, sample_id: str) -> bool:
        """Whether a sample's video is deleted."""
        return bool(self.samples) and sample_hash(sample_id) in self.samples

    def of_addresses(self, videos: Iterable[str]) -> list[str]:
        """Those of some addresses that are a deleted video's: of rows without a content hash."""
        return [address for address in videos if address_hash(address) in self.addresses]

    def kept(self, table: pa.Table) -> pa.Table:
        """The rows that are not deleted, of a table with COLUMNS."""
        deleted = self.deleted(table)
        return table if deleted is None else table.filter(pc.invert(deleted))

    def deleted(self, table: pa.Table) -> pa.ChunkedArray | None:
        """Which rows of a table with COLUMNS are deleted; None if none is."""
        if not self:
            return None
        known = pc.fill_null(table["video_hash"], "")
        has_hash = pc.not_equal(known, "")
        mask = pc.is_in(known, pa.array(sorted(self.hashes), pa.string()))
        if self.addresses and not pc.all(has_hash).as_py():
            unhashed = pc.unique(table["video"].filter(pc.invert(has_hash))).to_pylist()
            by_address = pc.is_in(
                table["video"], pa.array(self.of_addresses(unhashed), pa.string())
            )
            mask = pc.or_(mask, pc.and_(by_address, pc.invert(has_hash)))
        return mask if pc.any(mask).as_py() else None


def read_deletions(directory: Path) -> Deletions:
    """The tombstones of an archive. Raises ArchiveError if their file is damaged."""
    videos = _read(directory)
    return Deletions(
        frozenset(videos),
        frozenset(one for held in videos.values() for one in held["addresses"]),
        frozenset(one for held in videos.values() for one in held["samples"]),
    )


def delete_videos(directory: Path, videos: Mapping[str, "Video"], when: str) -> Deletions:
    """Add tombstones: from here on no reader that opens the archive sees these videos.

    ``videos``: what is known of each, by its content hash; ``when``: the time, for people. Raises
    ConfigError for what is no SHA-256, ArchiveError if the file is damaged or cannot be written.
    """
    for content_hash in videos:
        if not _HASH.fullmatch(content_hash):
            raise ConfigError(
                f"{content_hash!r} is no video hash; give the SHA-256 of the file, 64 hex digits "
                "(`sha256sum FILE`, or the column video_hash), or --video FILE"
            )
    try:
        with deleting(directory):
            known = _with(_read(directory), videos, when)
            write_json(directory / FILE, {"format": 1, "videos": known})
            sync_to_disk(directory)
    except OSError as error:
        raise ArchiveError(
            f"cannot write {directory / FILE} (nothing is deleted): {error.strerror}"
        ) from error
    return read_deletions(directory)


def _with(
    known: dict[str, dict[str, Any]], videos: Mapping[str, "Video"], when: str
) -> dict[str, dict[str, Any]]:
    for content_hash, video in videos.items():
        held = known.setdefault(content_hash, {"deleted": when, "addresses": [], "samples": []})
        held["addresses"] = sorted({*held["addresses"], *map(address_hash, video.addresses)})
        held["samples"] = sorted({*held["samples"], *map(sample_hash, video.samples)})
    return known


@dataclass(slots=True)
class Video:
    """What an archive knows of a video."""

    addresses: set[str] = field(default_factory=set)
    """Without window and view."""
    samples: set[str] = field(default_factory=set)
    """Ids of its samples."""
    clip_keys: set[str] = field(default_factory=set)
    """Of its clips in the cache."""
    groups: set[tuple[int, str]] = field(default_factory=set)
    num_traces: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoUse:
    """What an archive holds of the videos to delete, and what cannot be known."""

    videos: Mapping[str, Video]
    """By content hash."""
    unknown: frozenset[str]
    """Addresses of groups without a hash whose file is not there (any more) to be hashed."""


SEARCHED = ("attempt", "group_id", "trace_index", "sample_id", "clip_key", *COLUMNS)
"""Columns that ``find_videos`` reads."""


def find_videos(
    tables: Iterable[pa.Table],
    hashes: Collection[str],
    content_hash: Callable[[str], str | None],
) -> VideoUse:
    """Search rows for videos. ``tables``: of the whole archive, with the columns SEARCHED;
    ``content_hash``: of the file at an address, None if it is not there; it is asked once for each
    address that has rows without a hash."""
    videos = {content: Video() for content in hashes}
    wanted = pa.array(sorted(videos), pa.string())
    unhashed: list[pa.Table] = []
    for table in tables:
        known = pc.fill_null(table["video_hash"], "")
        for row in table.filter(pc.is_in(known, wanted)).to_pylist():
            _add(videos[row["video_hash"]], row)
        unhashed.append(table.filter(pc.equal(known, "")))
    of_address = {base: content for content, one in videos.items() for base in one.addresses}
    bases = {base_address(one) for rows in unhashed for one in rows["video"].unique().to_pylist()}
    hashed = {base: content_hash(base) for base in sorted(bases)}
    of_address |= {base: content for base, content in hashed.items() if content in videos}
    for rows in unhashed:
        own = [one for one in rows["video"].unique().to_pylist() if base_address(one) in of_address]
        for row in rows.filter(pc.is_in(rows["video"], pa.array(own, pa.string()))).to_pylist():
            _add(videos[of_address[base_address(row["video"])]], row)
    unknown = {base for base, content in hashed.items() if content is None}
    return VideoUse(videos=videos, unknown=frozenset(unknown - of_address.keys()))


def _add(video: Video, row: Mapping[str, Any]) -> None:
    video.addresses.add(base_address(row["video"]))
    video.samples.add(row["sample_id"])
    video.groups.add((row["attempt"], row["group_id"]))
    video.num_traces += row["trace_index"] is not None
    if row["clip_key"]:
        video.clip_keys.add(row["clip_key"])


def base_address(video: str) -> str:
    """A video's address without its time window and view (video/address.py)."""
    return _FRAGMENT.sub("", video)


def address_hash(video: str) -> str:
    """Hash of a video's address, without its window and view."""
    return stable_hash("video address", base_address(video))


def sample_hash(sample_id: str) -> str:
    """Hash of a sample's id."""
    return stable_hash("sample id", sample_id)


def _read(directory: Path) -> dict[str, dict[str, Any]]:
    path = directory / FILE
    try:
        content = json.loads(path.read_text())
        if content["format"] != 1:
            raise ArchiveError(f"{path} has format {content['format']}; update DeepIntuit")
        videos: dict[str, dict[str, Any]] = content["videos"]
        for held in videos.values():
            list(held["addresses"]), list(held["samples"])
        return videos
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(
            f"{path}, which names the deleted videos, cannot be read: {error}; restore it, or move "
            "it away and delete the videos again"
        ) from error


def file_hash(address: str) -> str | None:
    """Content hash of the file at an address, as the archive has it; None if it cannot be read."""
    try:
        with Path(address).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
