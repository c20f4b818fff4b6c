"""Checkpoints that are whole or absent, in a directory that every rank sees.

    all ranks write .<tag>.partial, hash their share of its files
        -> rank 0 writes manifest.json, renames to <tag>
    <tag> -> all ranks hash their share, compare with the manifest -> all ranks load, or all raise

The hashes find damage, not malice: DeepSpeed's files are pickles, so load only your own.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pydantic import TypeAdapter, ValidationError

from wire.disk import naming_full_disk
from wire.errors import ConfigError, DiskFull, UserError

MANIFEST = "manifest.json"
_STATE = "state"  # what DeepSpeed wrote; it leaves scripts beside it
_TAG = re.compile(r"step-(\d+)")

Write = Callable[[Path, str], None]
"""Writes or reads ``directory/tag`` on all ranks: the engine's ``save`` or ``load``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a checkpoint."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a whole checkpoint holds and which learner can load it.

    Example:
        Manifest(num_ranks=2, zero_stage=1, dtype="bfloat16",
                 files={"state/mp_rank_00_model_states.pt": File(num_bytes=912, sha256="3c5f...")})
    """

    num_ranks: int
    zero_stage: int
    dtype: str
    files: dict[str, File]


_ADAPTER = TypeAdapter(Manifest)


def save(write: Write, directory: Path, tag: str, zero_stage: int, dtype: str) -> None:
    """Write ``directory/tag``; it appears by rename, whole. All ranks call.

    Raises ConfigError on all ranks if they do not share the directory, DiskFull on the rank whose
    disk is full. What an earlier save has left stays.
    """
    try:
        with naming_full_disk(directory):
            _save(write, directory, tag, zero_stage, dtype)
    except DiskFull:
        shutil.rmtree(directory / f".{tag}.partial", ignore_errors=True)  # room to go on with
        raise


def _save(write: Write, directory: Path, tag: str, zero_stage: int, dtype: str) -> None:
    partial, rank = directory / f".{tag}.partial", dist.get_rank()
    if rank == 0:
        for abandoned in directory.glob(".*.partial"):
            shutil.rmtree(abandoned)
    dist.barrier()
    write(partial, _STATE)
    dist.barrier()
    names = _names(partial)
    listings = _gather(names)
    if any(listing != listings[0] for listing in listings):
        raise ConfigError(
            f"the learner's ranks see different files in {partial}; "
            "give a run directory on a file system that all nodes share"
        )
    shares = _gather({name: _describe(partial / name) for name in _share(names)})
    if rank == 0:
        files = {name: file for share in shares for name, file in share.items()}
        manifest = Manifest(
            num_ranks=dist.get_world_size(), zero_stage=zero_stage, dtype=dtype, files=files
        )
        _publish(partial, directory / tag, manifest)
    dist.barrier()


def load(read: Write, directory: Path, tag: str, zero_stage: int, dtype: str) -> None:
    """Load ``directory/tag`` if it is whole and was written by such a learner. All ranks call.

    Raises ConfigError for another number of ranks, ZeRO stage or precision, UserError naming the
    files that are damaged; on all ranks alike.
    """
    folder = directory / tag
    manifest = read_manifest(folder)
    check_fits(manifest, folder, dist.get_world_size(), zero_stage, dtype)
    own = [
        fault
        for name in _share(sorted(manifest.files))
        for fault in _faults(folder, name, manifest)
    ]
    found = [fault for faults in _gather(own) for fault in faults]
    if found:
        raise UserError(f"checkpoint {folder} is damaged: {'; '.join(found)}; use an earlier one")
    read(folder, _STATE)


def latest(directory: Path | str) -> str | None:
    """The newest whole checkpoint's tag, by names and sizes (no hashing); None without one."""
    tags = (entry.name for entry in Path(directory).glob("step-*") if _TAG.fullmatch(entry.name))
    newest_first = sorted(tags, key=lambda tag: int(tag.removeprefix("step-")), reverse=True)
    return next((tag for tag in newest_first if _is_whole(Path(directory) / tag)), None)


def read_manifest(folder: Path) -> Manifest:
    """Raises UserError if there is none, and so no whole checkpoint."""
    try:
        return _ADAPTER.validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise UserError(
            f"{folder} is no whole checkpoint: cannot read its {MANIFEST}: {error.strerror}; "
            "use an earlier one"
        ) from error
    except ValidationError as error:
        raise UserError(f"{folder / MANIFEST} is damaged; use an earlier checkpoint") from error


def check_fits(
    manifest: Manifest, folder: Path, num_ranks: int, zero_stage: int, dtype: str
) -> None:
    """Raises ConfigError naming every setting that differs from the one that wrote it."""
    settings = {
        "num_ranks": (manifest.num_ranks, num_ranks),
        "zero_stage": (manifest.zero_stage, zero_stage),
        "dtype": (manifest.dtype, dtype),
    }
    wrong = [
        f"learner.{name}={now}, the checkpoint has {then}"
        for name, (then, now) in settings.items()
        if then != now
    ]
    if wrong:
        raise ConfigError(
            f"cannot continue from {folder}: {'; '.join(wrong)}; set what the checkpoint has, "
            "or start a new run from exported weights"
        )


def _publish(partial: Path, folder: Path, manifest: Manifest) -> None:
    """Manifest last, then the name; nothing is named before it is on the disk."""
    for name in manifest.files:
        _sync(partial / name)
    (partial / MANIFEST).write_bytes(_ADAPTER.dump_json(manifest, indent=1))
    _sync(partial / MANIFEST)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_whole(folder: Path) -> bool:
    try:
        manifest = read_manifest(folder)
    except UserError:
        return False
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == file.num_bytes
        for name, file in manifest.files.items()
    )


def _faults(folder: Path, name: str, manifest: Manifest) -> list[str]:
    expected = manifest.files[name]
    try:
        found = _describe(folder / name)
    except OSError as error:
        return [f"{name}: {error.strerror}"]
    if found.num_bytes != expected.num_bytes:
        return [f"{name} has {found.num_bytes} bytes, expected {expected.num_bytes}"]
    return [] if found == expected else [f"{name} has other bytes than were written"]


def _describe(path: Path) -> File:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return File(num_bytes=file.tell(), sha256=digest)


def _names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _share(names: Sequence[str]) -> Sequence[str]:
    """This rank's part of the hashing."""
    return names[dist.get_rank() :: dist.get_world_size()]


def _gather(value: Any) -> list[Any]:
    """Every rank's value, on every rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
