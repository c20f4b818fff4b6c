"""Deletion of videos from an archive: tombstones in deleted.json, which every reader honours.

    delete_videos(directory, videos) -> deleted.json -> hidden at once -> compaction removes rows

A tombstone names a video by the hash of its content. Groups of a clip that could not be decoded,
and those written before there was a column for the hash, have none: they are known by the video's
address, of which the tombstone keeps a hash only. A tombstone stays when the rows are gone, so that
a file that comes back is hidden too.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

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

    def __bool__(self) -> bool:
        return bool(self.hashes or self.addresses)

    @property
    def fingerprint(self) -> str:
        """Hash of the tombstones."""
        return stable_hash(sorted(self.hashes), sorted(self.addresses))[:16]

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
            own = [address for address in unhashed if address_hash(address) in self.addresses]
            by_address = pc.is_in(table["video"], pa.array(own, pa.string()))
            mask = pc.or_(mask, pc.and_(by_address, pc.invert(has_hash)))
        return mask if pc.any(mask).as_py() else None


def read_deletions(directory: Path) -> Deletions:
    """The tombstones of an archive. Raises ArchiveError if their file is damaged."""
    videos = _read(directory)
    return Deletions(
        frozenset(videos), frozenset(one for held in videos.values() for one in held["addresses"])
    )


def delete_videos(directory: Path, videos: Mapping[str, Collection[str]], when: str) -> Deletions:
    """Add tombstones: from here on no reader that opens the archive sees these videos.

    ``videos``: the addresses known for each content hash, for rows without a hash; ``when``: the
    time, for people. Raises ConfigError for what is no SHA-256, ArchiveError if the file is damaged
    or cannot be written.
    """
    for content_hash in videos:
        if not _HASH.fullmatch(content_hash):
            raise ConfigError(
                f"{content_hash!r} is no video hash; give the SHA-256 of the file, 64 hex digits "
                "(`sha256sum FILE`, or the column video_hash), or --video FILE"
            )
    known = _read(directory)
    for content_hash, addresses in videos.items():
        held = known.setdefault(content_hash, {"deleted": when, "addresses": []})
        hashes = {address_hash(address) for address in addresses}
        held["addresses"] = sorted({*held["addresses"], *hashes})
    try:
        write_json(directory / FILE, {"format": 1, "videos": known})
        sync_to_disk(directory)
    except OSError as error:
        raise ArchiveError(
            f"cannot write {directory / FILE} (nothing is deleted): {error.strerror}"
        ) from error
    return read_deletions(directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoUse:
    """What an archive holds of the videos to delete, and what cannot be known."""

    addresses: Mapping[str, frozenset[str]]
    """Addresses of each video, by its hash."""
    num_groups: int
    num_traces: int
    sample_ids: frozenset[str]
    unknown: frozenset[str]
    """Addresses of groups without a hash whose file is not there (any more) to be hashed."""


def find_videos(
    tables: Iterable[pa.Table],
    hashes: Collection[str],
    content_hash: Callable[[str], str | None],
) -> VideoUse:
    """Search rows for videos. ``tables``: of the whole archive, with COLUMNS, group_id, attempt,
    trace_index and sample_id; ``content_hash``: of the file at an address, None if it is not there;
    asked once for each address that has rows without a hash."""
    wanted = pa.array(sorted(hashes), pa.string())
    addresses: dict[str, set[str]] = {content: set() for content in hashes}
    by_address: dict[str, str | None] = {}
    unhashed: list[pa.Table] = []
    kept: list[pa.Table] = []
    for table in tables:
        known = pc.fill_null(table["video_hash"], "")
        kept.append(table.filter(pc.is_in(known, wanted)))
        for pair in _unique(kept[-1], COLUMNS):
            addresses[pair["video_hash"]].add(base_address(pair["video"]))
        unhashed.append(table.filter(pc.equal(known, "")))
        for video in unhashed[-1]["video"].unique().to_pylist():
            by_address.setdefault(base_address(video))
    for base in by_address:
        by_address[base] = content_hash(base)
        if by_address[base] in addresses:
            addresses[str(by_address[base])].add(base)
    at = {base for held in addresses.values() for base in held}
    for table in unhashed:
        videos = [one for one in table["video"].unique().to_pylist() if base_address(one) in at]
        kept.append(table.filter(pc.is_in(table["video"], pa.array(videos, pa.string()))))
    rows = pa.concat_tables(kept) if kept else None
    return VideoUse(
        addresses={content: frozenset(held) for content, held in addresses.items()},
        num_groups=0 if rows is None else len(_unique(rows, ("attempt", "group_id"))),
        num_traces=0 if rows is None else len(rows) - rows["trace_index"].null_count,
        sample_ids=frozenset() if rows is None else frozenset(rows["sample_id"].to_pylist()),
        unknown=frozenset(base for base, content in by_address.items() if content is None) - at,
    )


def base_address(video: str) -> str:
    """A video's address without its time window and view (video/address.py)."""
    return _FRAGMENT.sub("", video)


def address_hash(video: str) -> str:
    """Hash of a video's address, without its window and view."""
    return stable_hash("video address", base_address(video))


def _unique(table: pa.Table, columns: Collection[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.group_by(list(columns)).aggregate([]).to_pylist()
    return rows


def _read(directory: Path) -> dict[str, dict[str, Any]]:
    path = directory / FILE
    try:
        content = json.loads(path.read_text())
        if content["format"] != 1:
            raise ArchiveError(f"{path} has format {content['format']}; update DeepIntuit")
        videos: dict[str, dict[str, Any]] = content["videos"]
        for held in videos.values():
            list(held["addresses"])
        return videos
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(
            f"{path}, which names the deleted videos, cannot be read: {error}; restore it, or "
            "delete the videos again"
        ) from error
