"""Export of an archive's traces to a place that appears whole, or not at all.

    archive -> scan, filter -> rows of some groups -> writer of the format -> OUT.partial -> OUT

Memory holds some groups at a time. Videos stay where they are: their URI, hash, window and frames
are columns.
"""

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from cluster.archive.export.datasets import write_datasets
from cluster.archive.export.jsonl import write_jsonl, write_jsonl_groups
from cluster.archive.export.lance import write_lance
from cluster.archive.export.scout import SCOUT_SOURCE, TracedRun, transcripts_of, write_scout
from cluster.archive.rows import as_in_files, scan
from cluster.archive.where import Where
from cluster.run_files import read_run_recipe
from wire.archive.trace_rows import SCHEMA
from wire.errors import ConfigError, UserError
from wire.remote_path import RemotePath

Writer = Callable[[Iterator[pa.Table], pa.Schema, Path], None]
"""Writes tables of a schema to a path that does not exist yet."""

WRITERS: Mapping[str, Writer] = {
    "jsonl": write_jsonl,
    "jsonl-groups": write_jsonl_groups,
    "datasets": write_datasets,
    "scout": write_scout,
    "lance": write_lance,
}
"""Writer of each format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Counts of an export."""

    num_rows: int
    num_bytes: int


def export(
    directory: Path,
    target: Path,
    form: str,
    where: Where,
    columns: Sequence[str] | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Exported:
    """Write the traces that ``where`` keeps to ``target``, with ``columns`` or all.

    ``progress`` is called with numbers of rows that were read. Raises ConfigError if the
    target exists, if no trace matches or if the format's library is missing; ArchiveError.
    """
    _check_free(target)
    if form in ("scout", "jsonl-groups") and columns is not None:
        raise ConfigError(f"--format {form} has columns of its own; leave --columns out")
    names = list(SCOUT_SOURCE if form == "scout" else columns or SCHEMA.names)
    tables = scan(directory, names, where, progress)
    first = next(tables, None)
    if first is None:
        raise ConfigError(f"no trace of {directory} matches; nothing was written")
    if form == "scout":
        transcripts = partial(transcripts_of, run=_traced_run(directory.parent))
        first, tables = transcripts(first), map(transcripts, tables)
    elif form in ("datasets", "lance"):
        first, tables = as_in_files(first), map(as_in_files, tables)
    counts: list[int] = []
    rows = _counted(itertools.chain([first], tables), counts)
    num_bytes = _write_whole(target, lambda path: WRITERS[form](rows, first.schema, path))
    return Exported(num_rows=sum(counts), num_bytes=num_bytes)


def _traced_run(path: Path) -> TracedRun:
    name = path.name if isinstance(path, RemotePath) else path.resolve().name
    try:
        config = read_run_recipe(path)
    except UserError:  # an archive on its own, or of another version's run
        return TracedRun(name=name)
    return TracedRun(name=name, model=Path(config.model).name, prompts=config.prompt_set)


def _check_free(target: Path) -> None:
    if target.exists():
        raise ConfigError(f"{target} is there already; give a place that is not, or remove it")


def _counted(tables: Iterator[pa.Table], counts: list[int]) -> Iterator[pa.Table]:
    for table in tables:
        counts.append(table.num_rows)
        yield table


def _write_whole(target: Path, write: Callable[[Path], None]) -> int:
    """A file or a folder that has its name when all of it is written; returns its bytes."""
    if isinstance(target, RemotePath):
        return _write_to_store(target, write)
    unfinished = target.with_name(target.name + ".partial")
    _remove(unfinished)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(unfinished)
        _check_free(target)
        unfinished.rename(target)
    except BaseException:
        _remove(unfinished)
        raise
    return _size(target)


def _write_to_store(target: RemotePath, write: Callable[[Path], None]) -> int:
    """Through a local folder: an object is whole or not there, a folder is removed if a part of
    it cannot be written."""
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / target.name
        write(local)
        _check_free(target)
        try:
            target.system.put(str(local), target.key, recursive=local.is_dir())
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                target.system.rm(target.key, recursive=True)
            raise
        return _size(local)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size(target: Path) -> int:
    files = target.rglob("*") if target.is_dir() else [target]
    return sum(path.stat().st_size for path in files if path.is_file())
