"""Checkpoints of the learner: saved whole or not at all, in a directory that every rank sees.

    all ranks write .<tag>.partial, hash their share of its files
        -> rank 0 writes manifest.json, renames to <tag>
    <tag> -> all ranks hash their share, compare with the manifest -> all ranks load, or all raise

    rank-RRRRR-NNN.safetensors   weights and optimiser state (learner/checkpoint_fragments.py)
    random-RRRRR.safetensors     the generators of a rank (learner/ranks/determinism.py)
    loop.json                    the caller's notes: LoopState in cluster/resume/loop_state.py
    manifest.json                last of all: size and SHA-256 of each

Nothing in it is a pickle. The hashes find damage.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from pydantic import TypeAdapter, ValidationError

from learner.ranks.collectives import gather
from learner.ranks.determinism import random_state, set_random_state
from wire.disk import naming_full_disk
from wire.errors import CheckpointDamaged, ConfigError, DiskFull, UserError
from wire.whole_file import sync_to_disk

MANIFEST = "manifest.json"
_FORMAT = 2
_TAG = re.compile(r"step-(\d+)")

Access = Callable[[Path], None]
"""Writes this rank's files into a folder, or reads them from it. All ranks call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a checkpoint."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The manifest of a whole checkpoint: its files, and which learner wrote it.

    Example:
        Manifest(num_ranks=2, zero_stage=1, dtype="bfloat16",
                 files={"rank-00000-000.safetensors": File(num_bytes=912, sha256="3c5f...")})
    """

    num_ranks: int
    zero_stage: int
    dtype: str
    files: dict[str, File]
    format: int = 1
    """Version of the files' format; version 1 was DeepSpeed's."""


_ADAPTER = TypeAdapter(Manifest)


def save(write: Access, directory: Path, tag: str, zero_stage: int, dtype: str) -> None:
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


def _save(write: Access, directory: Path, tag: str, zero_stage: int, dtype: str) -> None:
    partial, rank = directory / f".{tag}.partial", dist.get_rank()
    if rank == 0:
        for abandoned in directory.glob(".*.partial"):
            shutil.rmtree(abandoned)
    dist.barrier()
    write(partial)
    dist.barrier()
    names = _names(partial)
    listings = gather(names)
    if any(listing != listings[0] for listing in listings):
        raise ConfigError(
            f"the learner's ranks see different files in {partial}; "
            "give a run directory on a file system that all nodes share"
        )
    shares = gather({name: _describe(partial / name) for name in _share(names)})
    if rank == 0:
        files = {name: file for share in shares for name, file in share.items()}
        manifest = Manifest(
            num_ranks=dist.get_world_size(),
            zero_stage=zero_stage,
            dtype=dtype,
            files=files,
            format=_FORMAT,
        )
        _publish(partial, directory / tag, manifest)
    dist.barrier()


def load(read: Access, directory: Path, tag: str) -> None:
    """Load ``directory/tag`` if it is whole. All ranks call, as many as there are now.

    Raises CheckpointDamaged naming the files that are damaged, UserError for one of another
    version of this program; on all ranks alike, before anything is read.
    """
    folder = directory / tag
    manifest = read_manifest(folder)
    own = [
        fault
        for name in _share(sorted(manifest.files))
        for fault in _faults(folder, name, manifest)
    ]
    _refuse(folder, [fault for faults in gather(own) for fault in faults])
    read(folder)


def refuse_damaged(folder: Path) -> None:
    """Raise CheckpointDamaged unless every byte of a checkpoint is as it was written; for one
    process without ranks. Raises UserError for a checkpoint of another version of this program."""
    manifest = read_manifest(folder)
    _refuse(folder, [f for name in sorted(manifest.files) for f in _faults(folder, name, manifest)])


def write_random_state(folder: Path) -> None:
    """Write the state of this rank's random generators."""
    from safetensors.torch import save_file

    save_file(random_state(), folder / f"random-{dist.get_rank():05d}.safetensors")


def read_random_state(folder: Path) -> None:
    """Restore this rank's random generators; a rank that was not there keeps those that it has."""
    from safetensors.torch import load_file

    path = folder / f"random-{dist.get_rank():05d}.safetensors"
    if path.exists():
        set_random_state(load_file(path))


def latest(directory: Path | str) -> str | None:
    """Tag of the newest whole checkpoint, by names and sizes (no hashing); None without one."""
    return next(iter(whole_tags(directory)), None)


def whole_tags(directory: Path | str) -> Iterator[str]:
    """Tags of the checkpoints that are whole by names and sizes, newest first."""
    return (tag for tag in tags(directory) if _is_whole(Path(directory) / tag))


def tags(directory: Path | str) -> list[str]:
    """Tags of all checkpoints, newest first."""
    names = (entry.name for entry in Path(directory).glob("step-*") if _TAG.fullmatch(entry.name))
    return sorted(names, key=step_of, reverse=True)


def tag_of(step: int) -> str:
    """The tag of the checkpoint after a step."""
    return f"step-{step:06d}"


def step_of(tag: str) -> int:
    """The step of a checkpoint's tag: the inverse of :func:`tag_of`."""
    return int(tag.removeprefix("step-"))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint. Raises CheckpointDamaged if there is none, and so no whole
    checkpoint; UserError for one of another version of this program."""
    try:
        manifest = _ADAPTER.validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise CheckpointDamaged(
            f"{folder} is no whole checkpoint: cannot read its {MANIFEST}: {error.strerror}"
        ) from error
    except ValidationError as error:
        raise CheckpointDamaged(f"{folder / MANIFEST} is damaged") from error
    if manifest.format != _FORMAT:
        raise UserError(
            f"checkpoint {folder} has format {manifest.format}, this program reads {_FORMAT}: go "
            "on with the version that wrote it, or start a new run from exported weights"
        )
    return manifest


def _publish(partial: Path, folder: Path, manifest: Manifest) -> None:
    """Manifest last, then the name; nothing is named before it is on the disk."""
    for name in manifest.files:
        sync_to_disk(partial / name)
    (partial / MANIFEST).write_bytes(_ADAPTER.dump_json(manifest, indent=1))
    sync_to_disk(partial / MANIFEST)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    sync_to_disk(folder.parent)


def _is_whole(folder: Path) -> bool:
    try:
        manifest = read_manifest(folder)
    except CheckpointDamaged:
        return False
    except UserError:
        return True  # of another version: not ours to pass over in silence
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == file.num_bytes
        for name, file in manifest.files.items()
    )


def _faults(folder: Path, name: str, manifest: Manifest) -> list[str]:
    expected = manifest.files[name]
    try:
        actual = _describe(folder / name)
    except OSError as error:
        return [f"{name}: {error.strerror}"]
    if actual.num_bytes != expected.num_bytes:
        return [f"{name} has {actual.num_bytes} bytes, expected {expected.num_bytes}"]
    return [] if actual == expected else [f"{name} has other bytes than were written"]


def _refuse(folder: Path, faults: Sequence[str]) -> None:
    if faults:
        raise CheckpointDamaged(f"checkpoint {folder} is damaged: {'; '.join(faults)}")


def _describe(path: Path) -> File:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return File(num_bytes=file.tell(), sha256=digest)


def _names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _share(names: Sequence[str]) -> Sequence[str]:
    """The files that this rank hashes."""
    return names[dist.get_rank() :: dist.get_world_size()]
