"""Deletion of videos from a run: its archive, its predictions, its report, its cached clips.

hashes, files -> find_videos -> tombstones: hidden at once -> compaction removes the rows
                             -> predictions, label errors, report, cached clips: removed here
"""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.run_files import RECIPE_FILE, SILENT_S, read_run_recipe
from video.disk_cache.location import cache_folder
from wire.archive.archive import journals
from wire.archive.deletion import (
    COLUMNS,
    FILE,
    SEARCHED,
    Deletions,
    Video,
    VideoUse,
    base_address,
    delete_videos,
    file_hash,
    find_videos,
    read_deletions,
)
from wire.archive.journal import read_journal
from wire.archive.parquet_files import scan
from wire.errors import ConfigError, UserError
from wire.remote_path import RemotePath
from wire.strict_json import from_json, to_json
from wire.whole_file import whole_file

_KEY_LENGTH = 40
_REMEMBERED = "opened-clips.json"
Progress = Callable[[str], None]
"""Called with each video file that is read for its hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """Report of a deletion."""

    videos: Mapping[str, Video]
    """What the archive holds of each, by its hash; nothing of one that it does not know."""
    unknown: frozenset[str]
    """Addresses whose traces have no hash and whose file is not there: they may be these videos."""
    changed: tuple[Path, ...]
    """Other files of the run from which they were removed."""


def delete(
    directory: Path, hashes: Sequence[str], files: Sequence[str], progress: Progress | None = None
) -> Deleted:
    """Delete videos from the archive in ``directory`` and the run that it is of.

    ``files``: addresses of videos, or their addresses in the archive where the file is gone. Raises
    ConfigError for one of which no hash is known, ArchiveError.
    """

    def content_hash(address: str) -> str | None:
        if progress is not None:
            progress(address)
        return file_hash(address)

    wanted = list(hashes) + [_hash_of(directory, file) for file in files]
    use = find_videos(_every_row(directory, SEARCHED), wanted, content_hash)
    _add_addresses(use, files)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    deletions = delete_videos(directory, use.videos, now)
    keys = {key for video in use.videos.values() for key in video.clip_keys}
    changed = _remove_cached(directory, keys)
    if not is_running(directory):  # else it may be writing them
        changed += remove_from_run(directory, deletions)
    return Deleted(videos=use.videos, unknown=use.unknown, changed=tuple(changed))


def remove_from_run(directory: Path, deletions: Deletions) -> list[Path]:
    """Remove deleted videos from the other files of the run whose archive is in ``directory``;
    returns the files that were changed or removed. Raises OSError."""
    if not (run := run_of(directory)) or not deletions:
        return []
    changed = [path for path in _tables_of(run) if _rewrite_table(path, deletions)]
    changed += [path for path in _lines_of(run) if _rewrite_lines(path, deletions)]
    if _rewrite_remembered(run / _REMEMBERED, deletions):
        changed.append(run / _REMEMBERED)
    report, tombstones = run / "report.html", directory / FILE
    if report.exists() and report.stat().st_mtime <= tombstones.stat().st_mtime:
        report.unlink()  # `deepintuit report` writes it anew, without them
        changed.append(report)
    return changed


def left_in_run(directory: Path) -> list[Path]:
    """Files of the run, outside its archive, that hold deleted videos still. Raises OSError and
    ArchiveError."""
    deletions = read_deletions(directory)
    if not (run := run_of(directory)) or not deletions:
        return []
    left = [path for path in _tables_of(run) if _has_deleted_rows(path, deletions)]
    left += [path for path in _lines_of(run) if _kept_lines(path, deletions) is not None]
    report, tombstones = run / "report.html", directory / FILE
    if report.exists() and report.stat().st_mtime <= tombstones.stat().st_mtime:
        left.append(report)
    return left


def run_of(directory: Path) -> Path | None:
    """The run directory that an archive lies in; None for an archive alone, or in a store."""
    if isinstance(directory, RemotePath):
        return None
    return directory.parent if (directory.parent / RECIPE_FILE).exists() else None


def is_running(directory: Path) -> bool:
    """Whether a run, on any machine, gave a sign of life lately: of it the lock of the archive may
    know nothing, on a shared disk."""
    run = run_of(directory)
    if run is None:
        return False
    try:
        sign = from_json((run / "status.json").read_text())
        return bool(sign["state"] == "running" and time.time() - float(sign["seen"]) < SILENT_S)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _every_row(directory: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of an archive, those that are hidden too: a deletion that was killed is done again."""
    for path in journals(directory).values():
        with suppress(FileNotFoundError):
            for table in read_journal(path):
                yield table.select(list(columns))
    for _, _, table in scan(directory, columns, deletions=Deletions()):
        yield table


def _hash_of(directory: Path, file: str) -> str:
    """Content hash of a video: of the file, else the one that the archive has for its address."""
    content = file_hash(file)
    if content is not None:
        return content
    names = _addresses(file)
    for table in _every_row(directory, COLUMNS):
        for row in table.group_by(["video", "video_hash"]).aggregate([]).to_pylist():
            if row["video_hash"] and base_address(row["video"]) in names:
                return str(row["video_hash"])
    raise ConfigError(
        f"--video {file}: there is no such file, and no trace with this address has a hash; give "
        "the path of the file as the traces have it (archive ls --columns video), or --video-hash"
    )


def _addresses(file: str) -> set[str]:
    return {base_address(file), str(Path(base_address(file)).absolute())}


def _add_addresses(use: VideoUse, files: Sequence[str]) -> None:
    """A file that was given stands for its address, too: clips there that could not be decoded."""
    for file in files:
        content = file_hash(file)
        if content is not None and content in use.videos:
            use.videos[content].addresses.update(_addresses(file))


def _tables_of(run: Path) -> Iterator[Path]:
    for folder in ("predictions", "stages", "replaced"):
        yield from sorted((run / folder).rglob("*.parquet"))


def _lines_of(run: Path) -> Iterator[Path]:
    """JSON lines about single clips."""
    yield from (path for path in [run / "quarantine.jsonl"] if path.exists())
    for folder in ("stages", "replaced"):
        yield from sorted((run / folder).rglob("*.jsonl"))


def _is_kept(sample_ids: Sequence[str], deletions: Deletions) -> pa.Array:
    named = {one for one in set(sample_ids) if one is not None and deletions.names(one)}
    return pa.array([one not in named for one in sample_ids])


def _has_deleted_rows(path: Path, deletions: Deletions) -> bool:
    with pq.ParquetFile(path) as file:
        if "sample_id" not in file.schema_arrow.names:
            return False
        ids = file.read(columns=["sample_id"])["sample_id"].to_pylist()
    return not all(_is_kept(ids, deletions).to_pylist())


def _rewrite_table(path: Path, deletions: Deletions) -> bool:
    if not _has_deleted_rows(path, deletions):
        return False
    with (
        pq.ParquetFile(path) as file,
        whole_file(path, sync=True) as partial,
        pq.ParquetWriter(partial, file.schema_arrow, compression="zstd") as writer,
    ):
        for batch in file.iter_batches():
            rows = pa.Table.from_batches([batch])
            kept = rows.filter(_is_kept(rows["sample_id"].to_pylist(), deletions))
            writer.write_table(kept.cast(file.schema_arrow))
    return True


def _kept_lines(path: Path, deletions: Deletions) -> list[str] | None:
    """The lines that stay; None if all do."""
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    kept = [line for line in lines if not _names_deleted(line, deletions)]
    return kept if len(kept) < len(lines) else None


def _names_deleted(line: str, deletions: Deletions) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    if not isinstance(entry, dict):
        return False
    texts = [value for value in entry.values() if isinstance(value, str)]
    return any(deletions.names(text) for text in texts) or bool(deletions.of_addresses(texts))


def _rewrite_lines(path: Path, deletions: Deletions) -> bool:
    kept = _kept_lines(path, deletions)
    if kept is None:
        return False
    with whole_file(path, sync=True) as partial:
        text = "".join(f"{line}\n" for line in kept)
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")
    return True


def _rewrite_remembered(path: Path, deletions: Deletions) -> bool:
    """Addresses of clips that were opened before."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        opened: dict[str, Any] = content["opened"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    deleted = deletions.of_addresses(opened)
    if not deleted:
        return False
    content["opened"] = {name: value for name, value in opened.items() if name not in deleted}
    with whole_file(path) as partial:
        partial.write_text(to_json(content, indent=2))
    return True


def _remove_cached(directory: Path, keys: Collection[str]) -> list[Path]:
    """Remove clips from this node's cache: frames, and the model's view of them."""
    run = run_of(directory)
    if run is None or not keys:
        return []
    try:
        folder = cache_folder(read_run_recipe(run).video)
    except UserError:
        return []  # a recipe of another program's: the command says where clips may be left
    entries = folder.rglob("*.safetensors") if folder.is_dir() else ()
    cached = [path for path in entries if path.stem[:_KEY_LENGTH] in keys]
    for path in cached:
        path.unlink(missing_ok=True)
    return cached
