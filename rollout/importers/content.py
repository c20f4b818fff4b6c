"""Content of a source, before its format is known: rows of a file, or files of a folder.

    JSON, JSON Lines, CSV, Parquet -> rows
    folder -> rows (save_to_disk, metadata.csv or .jsonl, Parquet shards), names of its videos

A source elsewhere is fetched first: a file whole, of a folder all but the videos.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from rollout.addresses import is_remote, local_path
from rollout.importers.arrow_file import dataset_rows, parquet_rows
from rollout.importers.csv_file import csv_rows
from rollout.importers.fetch import MediaStore
from rollout.importers.json_file import json_rows
from rollout.importers.rows import Row, is_video, split_named
from wire.errors import ConfigError, DataError

_TEXT_LISTS = (".csv", ".tsv", ".txt", ".list")
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_DATASET = ("dataset_dict.json", "dataset_info.json")

Rows = list[tuple[str, Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Content of one source.

    Example:
        Content(name="kinetics.csv", base="/data", rows=(("kinetics.csv line 2", {"label": "a"}),))
    """

    name: str
    base: str
    """Folder or URL where relative paths start."""
    rows: tuple[tuple[str, Row], ...] = ()
    """(place, row), for messages."""
    files: tuple[str, ...] = ()
    """All files of a folder, relative and sorted."""
    is_folder: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that any row has, in order."""
        return tuple(dict.fromkeys(name for _, row in self.rows for name in row))


def open_content(address: str, store: MediaStore, columns: Mapping[str, str]) -> Content:
    """Read a source; ``columns``: name to be -> name in the source.

    Raises DataError if it cannot be read or holds nothing.
    """
    try:
        listed = store.listing(address) if is_remote(address) else None
        path = _fetch(address, listed, store)
    except FileNotFoundError as error:
        raise DataError(f"cannot read {address}: nothing is there; check the address") from error
    base = address.rstrip("/") if listed is not None else _parent(address, path)
    if path.is_dir():
        content = _folder(path, base, listed, store)
    else:
        rows = _file_rows(path, store, columns.values())
        content = Content(name=_name(address), base=base, rows=tuple(rows))
    if not content.rows and not content.files:
        raise DataError(f"{address} holds no records; leave it out")
    return _renamed(content, columns)


def _fetch(address: str, listed: list[str] | None, store: MediaStore) -> Path:
    """Path to read: the source, or the file fetched from it."""
    if not is_remote(address):
        return Path(local_path(address))
    if listed is None:
        return store.fetch(address, again=True)  # small, and may have changed
    mirror = store.folder / "sources" / PurePosixPath(address.rstrip("/")).name
    mirror.mkdir(parents=True, exist_ok=True)
    for name in listed:
        if not is_video(name) and ".." not in PurePosixPath(name).parts:
            to = mirror / name
            to.parent.mkdir(parents=True, exist_ok=True)
            to.unlink(missing_ok=True)
            to.symlink_to(store.fetch(f"{address.rstrip('/')}/{name}", again=True).absolute())
    return mirror


def _name(address: str) -> str:
    return PurePosixPath(urlsplit(address).path if is_remote(address) else address).name


def _parent(address: str, path: Path) -> str:
    if is_remote(address):
        return address.rpartition("/")[0]
    return str((path if path.is_dir() else path.parent).absolute())


def _file_rows(path: Path, store: MediaStore, headers: Iterable[str] = ()) -> Rows:
    if path.suffix.lower() in _TEXT_LISTS:
        return csv_rows(path, headers)
    return parquet_rows(path, store) if path.suffix.lower() == ".parquet" else json_rows(path)


def _folder(path: Path, base: str, listed: list[str] | None, store: MediaStore) -> Content:
    files = tuple(listed if listed is not None else sorted(_walk(path)))
    names = {PurePosixPath(name).name for name in files}
    tops = {name for name in files if "/" not in name}
    rows: Rows = []
    if tops.intersection(_DATASET):
        rows = dataset_rows(path, store)
        files = ()
    elif names.intersection(_METADATA):
        rows = _metadata_rows(path, files, store)
    elif shards := [name for name in files if name.endswith(".parquet")]:
        rows = _shard_rows(path, shards, store)
        files = ()
    return Content(name=path.name, base=base, rows=tuple(rows), files=files, is_folder=True)


def _walk(folder: Path) -> Iterator[str]:
    """Files under a folder, relative; links to folders are followed, but never in a circle."""
    seen = set()
    for top, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(top))
        folders[:] = [
            name
            for name in folders
            if not name.startswith((".", "__")) and os.path.realpath(Path(top) / name) not in seen
        ]
        for name in names:
            if not name.startswith("."):
                yield (Path(top) / name).relative_to(folder).as_posix()


def _metadata_rows(folder: Path, files: Iterable[str], store: MediaStore) -> Rows:
    """Rows of each metadata file; its ``file_name`` starts at its own folder, which may be a
    split."""
    rows: Rows = []
    for name in files:
        path = PurePosixPath(name)
        if path.name not in _METADATA:
            continue
        split = next((part for part in path.parts[:-1] if split_named(part)), None)
        for where, row in _file_rows(folder / name, store):
            file_name = row.get("file_name")
            if isinstance(file_name, str):
                row = {**row, "file_name": str(path.parent / file_name)}
            rows.append((where, {"split": split, **row} if split else row))
    return rows


def _shard_rows(folder: Path, shards: Iterable[str], store: MediaStore) -> Rows:
    """Rows of ``train-00000-of-00002.parquet`` and the like, as the hub keeps them.

    Raises DataError if some shards are a split's and others are not.
    """
    splits = {
        name: PurePosixPath(name).name.split("-")[0].removesuffix(".parquet") for name in shards
    }
    others = sorted({split for split in splits.values() if not split_named(split)})
    if others and len(others) < len(set(splits.values())):
        raise DataError(
            f"{folder} has files of splits beside others ({', '.join(others[:5])}), whose split "
            "nobody can tell; import each file by itself, as SPLIT=FILE"
        )
    rows: Rows = []
    for name, split in splits.items():
        for where, row in parquet_rows(folder / name, store):
            rows.append((where, row if others else {"split": split, **row}))
    return rows


def _renamed(content: Content, columns: Mapping[str, str]) -> Content:
    if not columns:
        return content
    if absent := [name for name in columns.values() if name not in content.columns]:
        raise ConfigError(
            f"--columns names {', '.join(absent)}, which {content.name} has not; "
            f"its columns: {', '.join(content.columns) or 'none'}"
        )
    rows = ((where, _rename(row, columns)) for where, row in content.rows)
    return replace(content, rows=tuple(rows))


def _rename(row: Row, columns: Mapping[str, str]) -> Row:
    taken = {old: new for new, old in columns.items()}
    moved = {new: row.get(old) for old, new in taken.items()}
    return {**{k: v for k, v in row.items() if k not in taken and k not in moved}, **moved}
