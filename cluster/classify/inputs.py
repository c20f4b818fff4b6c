"""Inputs of a classification: files, folders and manifests -> clips, one after another.

    clip.mp4, clip.mp4#t=3,9    itself; what is wrong with it is said in its row
    folder                      the videos in it and below, in the order of their paths
    .jsonl .parquet .csv        a row's ``video``; label, id, text and all else are optional

What no clip can be made of is refused before an engine starts. A folder is walked as its clips are
asked for, so that one with any number of files takes no memory.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rollout.addresses import is_remote, local_path
from rollout.importers.csv_file import FIRST, SECOND, csv_rows
from rollout.importers.rows import VIDEO_SUFFIXES
from rollout.manifest import raise_if_any, read_rows, window_of
from rollout.prompt_columns import missing_values
from rollout.prompts_config import TextName
from video.address import Address
from video.file_kind import starts_as_video
from wire.errors import ClipError, DataError
from wire.labels import LabelSet
from wire.nearest import nearest
from wire.types import Sample, Split

_MANIFESTS = (".jsonl", ".parquet", ".csv", ".tsv")
_OWN = ("id", "video", "label", "split", "trace", "text", "start_s", "end_s")
_NO_LABEL = ""


class ClipInputs:
    """The clips that a command line names, in its order."""

    def __init__(
        self,
        named: Sequence[str],
        labels: LabelSet | None,
        columns: Mapping[str, Sequence[TextName]] = MappingProxyType({}),
    ) -> None:
        """``labels``: known ones; None: a manifest's are taken as given. ``columns``: of a
        manifest, that prompts show, each with the texts that do.

        Raises DataError for a name that is no file, a folder without a video, a manifest with
        faults, and clips without those columns."""
        self._labels, self._columns = labels, columns
        self._parts = [self._part(name) for name in named]
        self.total = sum(
            len(part) if isinstance(part, list) else sum(1 for _ in part) for part in self._parts
        )
        """Number of clips, as the folders are now."""

    def __iter__(self) -> Iterator[Sample]:
        return chain.from_iterable(self._parts)

    def _part(self, name: str) -> "_Clips":
        if is_remote(name):
            raise DataError(
                f"{name} is on another machine; fetch it first (deepintuit import does for a list)"
            )
        path = Path(local_path(name))
        if path.is_dir():
            folder = _Folder(path)
            if next(iter(folder), None) is None:
                raise DataError(f"there is no video in the folder {path}, or below it")
            return self._without_columns(name, folder)
        if path.suffix.lower() in _MANIFESTS and path.is_file():
            return self._manifest(path)
        if path.suffix.lower() == ".json":
            raise DataError(f"{path}: a manifest is .jsonl, .parquet or .csv; give it as one")
        return self._without_columns(name, [sample_at(name)])

    def _without_columns(self, name: str, clips: "_Clips") -> "_Clips":
        """``clips``, which no manifest names; refused if prompts show more of them."""
        if self._columns:
            raise DataError(
                f"the classifier's prompts show {', '.join(self._columns)} of each clip, which "
                f"{name} does not say; give a manifest (.jsonl, .parquet, .csv) with such a column"
            )
        return clips

    def _manifest(self, path: Path) -> list[Sample]:
        samples, faults = [], []
        for number, (where, row) in enumerate(_rows(path)):
            try:
                samples.append(self._sample(path, where, row))
            except DataError as error:
                faults.append(str(error))
            if number and not samples and len(faults) > 5:
                break  # the wrong kind of file
        raise_if_any(str(path), faults)
        if not samples:
            raise DataError(f"{path} names no clip; it needs a row with a video at least")
        for column, texts in self._columns.items():
            if fault := missing_values(column, texts, samples):
                raise DataError(f"{path}: {fault}")
        return samples

    def _sample(self, manifest: Path, where: str, row: Mapping[str, Any] | str) -> Sample:
        if isinstance(row, str):
            raise DataError(f"{where}: {row}")
        video = row.get("video")
        if not isinstance(video, str) or not video.strip():
            raise DataError(f"{where}: no 'video', or it is no text; every row needs the path")
        if is_remote(video):
            raise DataError(f"{where}: {video} is on another machine; fetch it first")
        return Sample(
            id=str(row.get("id") or video),
            video=_address(manifest.parent / local_path(video), row, where),
            label=self._label(row.get("label"), where),
            split=Split.TEST,
            text=row.get("text") or None,
            extra={key: value for key, value in row.items() if key not in _OWN},
        )

    def _label(self, given: Any, where: str) -> str:
        if given is None or given == "":
            return _NO_LABEL
        if self._labels is None:
            return str(given)
        label = self._labels.find(given) if isinstance(given, str) else None
        if label is None:
            known = nearest(str(given).casefold(), self._labels.names)
            raise DataError(f"{where}: unknown label {given!r}; {known}")
        return label


def truth_of(sample: Sample) -> str | None:
    """The true label of a clip; None where nobody gave it."""
    return sample.label or None


class _Folder:
    """Videos of a folder and all below it, walked anew each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[Sample]:
        # one that is gone by now, or a link to nothing, is a row with its failure
        return (_unlabelled(str(path), str(path.absolute())) for path in _videos_below(self._path))


_Clips = list[Sample] | _Folder


def _videos_below(folder: Path) -> Iterator[Path]:
    """Videos in the order of their paths; a folder that cannot be read counts as one, whose row
    says why."""
    unread: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=lambda e: unread.append(Path(e.filename))):
        yield from unread
        unread.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and _is_video(path):
                yield path
    yield from unread


def _is_video(path: Path) -> bool:
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return True
    try:
        return path.is_file() and starts_as_video(path)
    except OSError:
        return False


def sample_at(name: str) -> Sample:
    """A clip at an address, such as ``clip.mp4#t=3,9``, without label, its address as its id.
    Raises DataError if there is no such file."""
    try:
        address = Address.parse(local_path(name))
    except ClipError as error:
        raise DataError(f"{error}") from error
    if not address.path.exists():
        raise DataError(
            f"{address.path} does not exist; give video files, folders of them, or a manifest "
            "(.jsonl, .parquet, .csv)"
        )
    video = replace(address, path=address.path.absolute())
    return _unlabelled(name, str(video))


def _unlabelled(name: str, video: str) -> Sample:
    return Sample(id=name, video=video, label=_NO_LABEL, split=Split.TEST)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    if path.suffix.lower() not in (".csv", ".tsv"):
        yield from read_rows(path, required=("video",))
        return
    for where, row in csv_rows(path):
        if FIRST in row:  # lines "path label" without a header
            yield where, {"video": row[FIRST], "label": row[SECOND]}
        else:
            yield where, _with_times(row, where)


def _with_times(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A CSV row whose times are numbers, as in the other formats."""
    times = {}
    for name in ("start_s", "end_s"):
        try:
            times[name] = float(row[name]) if row.get(name) else None
        except ValueError as error:
            raise DataError(f"{where}: {name} is {row[name]!r}, expected seconds") from error
    return {**row, **times}


def _address(path: Path, row: Mapping[str, Any], where: str) -> str:
    try:
        window = window_of(row)
        address = Address.parse(path.absolute())
    except (ClipError, ValueError, TypeError) as error:
        raise DataError(f"{where}: {error}") from error
    if window is None:
        return str(address)
    if address.window is not None:
        raise DataError(f"{where}: start_s and end_s beside the time window of {path}; give one")
    return str(replace(address, window=window))
