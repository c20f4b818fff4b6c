"""A manifest file -> samples, or one DataError that gathers all its faults.

    JSONL or Parquet: id, video, label, split (+ trace, text, start_s, end_s, any more)
        -> checks -> list[Sample]

``video`` is a path or ``file://``; what is at ``https://`` is named, with the command that fetches.

``start_s`` and ``end_s`` cut a time window out of the video; either may be left out. Runs before
any engine starts, so it imports neither a decoder nor a model.
"""

import json
import logging
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from rollout.addresses import is_remote, local_path
from video.address import Address, Window
from video.config import VideoConfig
from video.opened_clips import OpenedClips
from wire.errors import ClipError, ClipUnreachable, DataError
from wire.labels import LabelSet
from wire.nearest import nearest
from wire.types import Sample, Split

_log = logging.getLogger(__name__)

_REQUIRED = ("id", "video", "label", "split")
_OPTIONAL = ("trace", "text")
_TIMES = ("start_s", "end_s")
_SPLITS = tuple(split.value for split in Split)
_REMEDY = "give the path of a .jsonl or .parquet file"
_OTHER_FORMATS = (".csv", ".tsv", ".txt", ".json")
_SHOWN = 5
_HALF = re.compile("[\ud800-\udfff]")
_MEND = "no tokenizer takes it; write the text again as UTF-8"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a row."""

    where: str
    """``line 7`` or ``row 7``; empty for the manifest as a whole."""
    column: str
    """The column that is wrong; empty where it is the row."""
    what: str
    remedy: str = ""
    """What to do, where it is not the same for every fault of the column."""

    def __str__(self) -> str:
        what = f"{self.what}; {self.remedy}" if self.remedy else self.what
        return f"{self.where}: {what}" if self.where else what


def read_manifest(
    path: str | Path, labels: LabelSet, media_root: str | Path | None = None
) -> list[Sample]:
    """Read and check a manifest; relative video paths start at its folder, or at ``media_root``.

    Raises DataError with the first five faults and the number of the others.
    """
    samples, faults = scan_manifest(path, labels, media_root)
    raise_if_any(str(path), [str(fault) for fault in faults])
    return samples


def scan_manifest(
    path: str | Path, labels: LabelSet, media_root: str | Path | None = None
) -> tuple[list[Sample], list[Fault]]:
    """The samples of the good rows, and the faults of the others; without a fault, it is a
    manifest that ``read_manifest`` takes. Raises DataError if the file cannot be read."""
    manifest = Path(path)
    reader = _Reader(labels, manifest, media_root)
    for where, row in read_rows(manifest):
        reader.read(where, row)
    if not reader.samples and not reader.faults:
        reader.faults.append(Fault("", "", "no samples in it; add at least one row"))
    return reader.samples, reader.faults


def read_rows(
    manifest: Path, required: Sequence[str] = _REQUIRED
) -> Iterator[tuple[str, Row | str]]:
    """Places and rows of a file, or for a place the reason why it holds none. Raises DataError if
    the file cannot be read, or is Parquet without the columns ``required``."""
    if manifest.suffix == ".parquet":
        return _parquet_rows(manifest, required)
    return _json_rows(manifest)


def select(samples: Iterable[Sample], split: Split) -> list[Sample]:
    """The samples of one split, in manifest order."""
    return [sample for sample in samples if sample.split is split]


def unreadable_clips(
    samples: Iterable[Sample], config: VideoConfig, opened: OpenedClips | None = None
) -> dict[str, str]:
    """Open each distinct clip, decode its first frame: those that cannot be read, and why.

    A view or a time window that is not there counts too; a clip whose disk fails does not. Costs
    some milliseconds per clip, and for those ``opened`` before only the file's stamp.
    """
    errors: dict[str, str] = {}
    known: dict[str, Address] = {}
    for video in dict.fromkeys(sample.video for sample in samples):
        try:
            known[video] = address = Address.parse(video)
            if address.tokens is not None:
                raise ClipError(
                    f"{video} asks for a narrative, and a manifest names videos; leave "
                    f'tokens={address.tokens} away: a stage shows narratives by input = "tokens"'
                )
        except ClipError as error:
            errors[video] = str(error)
    shown = list(dict.fromkeys(replace(address, view=None) for address in known.values()))
    opened = opened or OpenedClips((), config.decoder)
    faults = _open_all(opened.unknown(shown), config, opened)
    for video, address in known.items():
        if (fault := faults.get(replace(address, view=None))) is not None:
            errors[video] = fault
    return errors


def _open_all(
    addresses: Sequence[Address], config: VideoConfig, opened: OpenedClips
) -> dict[Address, str]:
    """Faults of the clips that cannot be read."""
    from video.pool import DecodePool

    def fault(address: Address) -> ClipError | None:
        try:
            pool.probe(address.path, address.window)
        except ClipError as error:
            return error
        return None

    with closing(DecodePool(config)) as pool, ThreadPoolExecutor(config.decode_workers) as threads:
        faults = list(zip(addresses, threads.map(fault, addresses), strict=True))
    for address, error in faults:
        if error is None:
            opened.add(address)
    unreachable = [error for _, error in faults if isinstance(error, ClipUnreachable)]
    if unreachable:
        _log.warning(
            "%d clips were not opened, and are tried again when they are needed: %s",
            len(unreachable),
            unreachable[0],
        )
    return {
        address: str(error)
        for address, error in faults
        if error is not None and not isinstance(error, ClipUnreachable)
    }


def raise_if_any(source: str, faults: list[str]) -> None:
    """If there are faults: DataError with the first five and the number of the others."""
    if not faults:
        return
    shown = "; ".join(faults[:_SHOWN])
    rest = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    raise DataError(f"{source}: {shown}{rest}")


class _Reader:
    """Rows -> samples and faults; one pass, in order."""

    def __init__(self, labels: LabelSet, manifest: Path, media_root: str | Path | None) -> None:
        self.samples: list[Sample] = []
        self.faults: list[Fault] = []
        self._names = labels.names
        self._by_form = {_form(name): name for name in labels.names}
        self._media_root = manifest.parent if media_root is None else Path(media_root)
        self._fetch = f"deepintuit import {manifest} LOCAL.jsonl fetches it and names the file"
        self._first_use: dict[str, str] = {}
        self._file_faults: dict[Path, str | None] = {}

    def read(self, where: str, row: Row | str) -> None:
        """Turn a row into a sample, or into faults; a str is the reason why it is no row."""
        faults = [("", row)] if isinstance(row, str) else self._faults(where, row)
        self.faults += [Fault(where, *fault) for fault in faults]
        if not faults and not isinstance(row, str):
            self.samples.append(self._sample(row))

    def _faults(self, where: str, row: Row) -> list[tuple[str, ...]]:
        """Column, what is wrong with it, and perhaps what to do."""
        faults: list[tuple[str, ...]] = [*_type_faults(row)]
        if faults:
            return faults
        if row["id"] in self._first_use:
            used = self._first_use[row["id"]]
            faults.append(("id", f"id {row['id']!r} is already used in {used}"))
        self._first_use.setdefault(row["id"], where)
        if _form(row["label"]) not in self._by_form:
            faults.append(("label", _unknown("label", row["label"], self._names)))
        if row["split"] not in _SPLITS:
            faults.append(("split", _unknown("split", row["split"], _SPLITS)))
        if is_remote(row["video"]):
            return [*faults, ("video", f"{row['video']} is on another machine", self._fetch)]
        path = self._path(row)
        fault_of = {"video": self._file_fault(path), "start_s": _window_fault(path, row)}
        named = [(column, fault) for column, fault in fault_of.items() if fault is not None]
        return [*faults, *named]

    def _sample(self, row: Row) -> Sample:
        return Sample(
            id=row["id"],
            video=self._video(row),
            label=self._by_form[_form(row["label"])],
            split=Split(row["split"]),
            trace=row.get("trace"),
            text=row.get("text"),
            extra={k: v for k, v in row.items() if k not in (*_REQUIRED, *_OPTIONAL, *_TIMES)},
        )

    def _path(self, row: Row) -> Path:
        path = self._media_root / local_path(row["video"])  # an absolute path stays as it is
        return path.absolute()

    def _video(self, row: Row) -> str:
        path, window = self._path(row), window_of(row)
        if window is None:
            return str(path)
        return str(replace(Address.parse(path), window=window))

    def _file_fault(self, video: Path) -> str | None:
        if video not in self._file_faults:
            self._file_faults[video] = _check_file(video)
        return self._file_faults[video]


def _check_file(video: Path) -> str | None:
    try:
        path = Address.parse(video).path
    except ClipError as error:
        return str(error)
    return None if path.is_file() else f"video file {path} does not exist"


def window_of(row: Row) -> Window | None:
    """Time window of a row, from ``start_s`` and ``end_s``. Raises ValueError if there is no such
    window."""
    start, end = (_seconds(row.get(name)) for name in _TIMES)
    return None if start is None and end is None else Window(start or 0.0, end)


def _window_fault(video: Path, row: Row) -> str | None:
    try:
        window = window_of(row)
    except ValueError as error:
        return f"start_s={row.get('start_s')!r}, end_s={row.get('end_s')!r}: {error}"
    try:
        twice = window is not None and Address.parse(video).window is not None
    except ClipError:
        return None  # said of the file
    return f"start_s and end_s beside the time window of {video}; give one" if twice else None


def _seconds(value: Any) -> float | None:
    """Parquet has null or NaN where a row has no window."""
    return None if value is None or math.isnan(value) else float(value)


def _type_faults(row: Row) -> list[tuple[str, str]]:
    missing = [name for name in _REQUIRED if row.get(name) is None]
    faults = [(name, f"no {name!r}; every row needs {', '.join(_REQUIRED)}") for name in missing]
    for name in (*_REQUIRED, *_OPTIONAL):
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            number = type(value) in (int, float)
            faults.append(
                (name, f"{name!r} is {value!r}, expected text" + f' ("{value}")' * number)
            )
        elif name in _REQUIRED and value is not None and not value.strip():
            faults.append((name, f"{name!r} is empty"))
        elif value is not None and _HALF.search(value):
            faults.append((name, f"{name!r} holds half a character (a lone surrogate): {_MEND}"))
    times = {name: row.get(name) for name in _TIMES}
    return faults + [
        (name, f"{name!r} is {seconds!r}, expected seconds as a number")
        for name, seconds in times.items()
        if seconds is not None and type(seconds) not in (int, float)
    ]


def _form(label: str) -> str:
    """A label with its accents in one encoding: macOS writes file names, and so labels, as NFD."""
    return unicodedata.normalize("NFC", label)


@lru_cache(maxsize=1024)  # a mistake in a label is seldom alone, and label sets may be large
def _unknown(what: str, value: str, known: tuple[str, ...]) -> str:
    return f"unknown {what} {value!r}; {nearest(value.casefold(), known)}"


def _json_rows(path: Path) -> Iterator[tuple[str, Row | str]]:
    if path.suffix.lower() in _OTHER_FORMATS:
        raise DataError(
            f"{path} is no manifest, which is .jsonl or .parquet; deepintuit import makes one of it"
        )
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"cannot read the manifest {path}: {error.strerror}; {_REMEDY}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"line {number}", _json_row(line)


def _json_row(line: bytes) -> Row | str:
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"not valid JSON: {error}"
    return row if isinstance(row, dict) else "not a JSON object"


def _parquet_rows(path: Path, required: Sequence[str]) -> Iterator[tuple[str, Row | str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        absent = [name for name in required if name not in file.schema_arrow.names]
        if absent:
            raise DataError(
                f"{path} has no column {', '.join(absent)}; it needs {', '.join(required)}"
            )
        rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read the manifest {path}: {error}; {_REMEDY}") from error
