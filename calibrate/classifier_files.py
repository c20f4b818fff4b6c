"""Files of a classifier: weights linked or copied into its directory, and a record of their bytes.

    a run's export -> hard links (the same disk) or copies -> FileRecord {bytes, sha256}

A hard link shares its bytes with the run's file. That is safe because a run never changes an export
in place: a new one is written beside it and renamed over it (learner/export.py), which leaves the
old bytes to the link. Models that no run left may be changed in place, so they are copied.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from wire.adapters import CONFIG_NAME, WEIGHTS_NAME
from wire.config import Config
from wire.errors import DataError
from wire.whole_file import sync_to_disk

log = logging.getLogger(__name__)

_BLOCK = 1 << 24
_READERS = 4
_WEIGHTS = ".safetensors"
_KEPT = (_WEIGHTS, ".json", ".jinja", ".txt", ".model")  # a model's files, tokenizer's included


class FileRecord(Config):
    """Record of a file's bytes."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, file: Path) -> "FileRecord":
        """Of a file; reads all of it."""
        digest = hashlib.sha256()
        with file.open("rb") as data:
            while block := data.read(_BLOCK):
                digest.update(block)
        return cls(bytes=file.stat().st_size, sha256=digest.hexdigest())


def is_weights(name: str) -> bool:
    """Whether a file holds weights of a model, which take long to read."""
    return PurePosixPath(name).suffix == _WEIGHTS and name.split("/")[0] in ("policy", "verdict")


def add_model(source: Path, folder: Path, *, copy: bool) -> None:
    """Add a Hugging Face directory's files. Weights that a run left are linked where the disk is
    the same, unless ``copy``. Raises DataError if there are no weights."""
    names = sorted(file.name for file in _files(source) if file.suffix in _KEPT)
    if "config.json" not in names or not any(name.endswith(_WEIGHTS) for name in names):
        raise DataError(
            f"{source} holds no model in safetensors (got {', '.join(names) or 'no files'}); "
            "expected a Hugging Face directory, such as stages/NAME/model of a run"
        )
    folder.mkdir(parents=True)
    linked = not copy and _is_export(source)
    for name in names:
        _add(source / name, folder / name, link=linked and name.endswith(_WEIGHTS))


def add_adapter(source: Path, folder: Path, *, copy: bool) -> None:
    """Add an adapter in peft's format, whose base is then the ``policy`` beside it. Raises
    DataError if it is none."""
    try:
        config = json.loads((source / CONFIG_NAME).read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = "policy"
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{source} holds no adapter: {error!r}; expected {CONFIG_NAME} and {WEIGHTS_NAME}, as "
            "stages/NAME/adapter of a run with LoRA"
        ) from error
    if not (source / WEIGHTS_NAME).is_file():
        raise DataError(f"{source} holds no adapter: it has no {WEIGHTS_NAME}")
    folder.mkdir(parents=True)
    link = not copy and _is_export(source)
    _add(source / WEIGHTS_NAME, folder / WEIGHTS_NAME, link=link)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True))


def records_of(directory: Path, left_out: tuple[str, ...]) -> dict[str, FileRecord]:
    """Records of all files of a directory by relative name, but those ``left_out``."""
    names = sorted(
        file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file()
    )
    return _read(directory, [name for name in names if name not in left_out])


def check_files(directory: Path, records: Mapping[str, FileRecord], *, weights: bool) -> None:
    """Raise DataError unless all files are there with their sizes, and with their hashes; those of
    large weights only with ``weights``."""
    for name, record in records.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{directory}: classifier.json names {name!r}, outside the directory")
        file = directory / name
        if not file.is_file():
            raise DataError(
                f"{directory} lacks {name}, which classifier.json names; copy the directory again, "
                "all of it"
            )
        if (size := file.stat().st_size) != record.bytes:
            raise DataError(
                f"{file} has {size} bytes, expected {record.bytes}: it is cut off or was changed; "
                "copy the directory again, or publish the classifier anew"
            )
    read = _read(directory, [name for name in records if weights or not is_weights(name)])
    if changed := [name for name, record in read.items() if record != records[name]]:
        raise DataError(
            f"{directory / changed[0]} has other bytes than were published (SHA-256 differs); copy "
            "the directory again, or publish the classifier anew"
        )


def weights_are_newer(directory: Path, records: Mapping[str, FileRecord], file: Path) -> bool:
    """Whether weights were written after a file. Of weights that are not there it says nothing."""
    limit = file.stat().st_mtime_ns
    weights = [directory / name for name in records if is_weights(name)]
    return any(one.is_file() and one.stat().st_mtime_ns > limit for one in weights)


def _read(directory: Path, names: Sequence[str]) -> dict[str, FileRecord]:
    """Record of each file, a few read at the same time: hashing is slower than a disk."""
    with ThreadPoolExecutor(_READERS) as readers:
        records = readers.map(FileRecord.of, [directory / name for name in names])
        return dict(zip(names, records, strict=True))


def _is_export(folder: Path) -> bool:
    """Whether nothing changes this model or adapter in place: a run left it
    (RUN/stages/NAME/model), or a fit that removes its folder at its end (OUT.work/model), or it was
    published."""
    parent = folder.resolve().parent
    published = (parent / "classifier.json").is_file()
    return published or parent.parent.name == "stages" or parent.name.endswith(".work")


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]


def _add(source: Path, target: Path, *, link: bool) -> None:
    if link:
        try:
            os.link(source.resolve(), target)
            return
        except OSError:  # another disk, or one without links; a full one fails below
            log.info("%s cannot be linked to %s, so it is copied", source, target)
    shutil.copyfile(source, target)
    sync_to_disk(target)
