"""SSv2-Split and FineGym-Split in their public layout: one side of a data set, read and checked.

    DATASET/group_scheme.json                 coarse label -> fine labels; A and B: split targets
    DATASET/SIDE/labels.json                  base label -> index
    DATASET/SIDE/train.csv, val.csv           file,index of the base label
    DATASET/SIDE/TARGET/ft_set.csv            train clips of the target, by new index
    DATASET/SIDE/TARGET/equivalent_set.csv    val clips of the target, by new index -> generality
    DATASET/SIDE/TARGET/unrelated_set.csv     all other val clips, by base index -> locality

New indices begin after the last base label, in the order of the group. equivalent + unrelated =
val, but where a target bears the name of a fine label that is kept on the same side: the two share
a row of the base model, so that val clips of that fine label are in neither set
(``Target.shared``).
"""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire.errors import DataError

SIDES = ("A", "B")
_SCHEME = "group_scheme.json"
_LAYOUT = (
    "expected SSv2-Split or FineGym-Split as published: group_scheme.json, and in A and B "
    "labels.json, train.csv, val.csv and a folder per split target"
)

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Clips of one file: their names, and the label index of each."""

    names: tuple[str, ...]
    labels: Indices

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Coarse label to be split, and its clips by places in the side's train and val clips."""

    name: str
    index: int
    """Of the coarse label in the base model."""
    fine: tuple[str, ...]
    """Names of the new labels, in the order of their indices."""
    train: Indices
    """Places in ``Side.train``, as ft_set.csv lists them."""
    train_labels: Indices
    """New label of each, from 0."""
    equivalent: Indices
    """Places in ``Side.val``."""
    equivalent_labels: Indices
    """New label of each, from 0."""
    unrelated: Indices
    """Places in ``Side.val``."""
    shared: Indices
    """Places in ``Side.val`` in neither set: their fine label has the target's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Side A or B of a data set: its base labels, clips, and split targets."""

    dataset: str
    side: str
    labels: tuple[str, ...]
    """Base labels, by index."""
    groups: Mapping[str, tuple[str, ...]]
    """Every group of the data set: coarse label -> fine labels."""
    train: Clips
    val: Clips
    targets: tuple[Target, ...]

    @property
    def kept(self) -> dict[str, tuple[str, ...]]:
        """Groups whose fine labels are base labels on this side: dictionary and alignment are made
        of them. A fine label with the name of a target is left out: its row is the target's too."""
        split = {target.name for target in self.targets}
        kept = {}
        for coarse, fine in self.groups.items():
            own = tuple(label for label in fine if label not in split)
            if coarse not in split and own:
                kept[coarse] = own
        return kept


def read_side(directory: Path, side: str) -> Side:
    """Read and check one side. Raises DataError that names the file and what is wrong in it."""
    if not (directory / _SCHEME).is_file():
        raise DataError(f"{directory} has no {_SCHEME}; {_LAYOUT}")
    scheme = _json_table(directory / _SCHEME)
    folder = directory / side
    if side not in SIDES or side not in scheme or not folder.is_dir():
        sides = [name for name in SIDES if (directory / name).is_dir()]
        raise DataError(f"{directory} has no side {side!r}, but {sides}; give --side A or B")
    groups = {str(c): tuple(map(str, fine)) for c, fine in scheme["group_scheme"].items()}
    labels = _label_names(folder / "labels.json")
    _check_targets(folder, scheme[side], groups, labels)
    files = _SideFiles(
        folder=folder,
        labels=labels,
        train=read_clips(folder / "train.csv", range(len(labels))),
        val=read_clips(folder / "val.csv", range(len(labels))),
        kept={label for c, fine in groups.items() if c not in scheme[side] for label in fine},
    )
    return Side(
        dataset=directory.name,
        side=side,
        labels=labels,
        groups=groups,
        train=files.train,
        val=files.val,
        targets=tuple(files.target(name, groups[name]) for name in scheme[side]),
    )


@dataclass(frozen=True, kw_only=True)
class _SideFiles:
    """Files of one side, against which those of its targets are checked."""

    folder: Path
    labels: tuple[str, ...]
    train: Clips
    val: Clips
    kept: set[str]
    """Fine labels of the groups that are not split."""

    @cached_property
    def _train_places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.train.names)}

    @cached_property
    def _val_places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.val.names)}

    def target(self, name: str, fine: tuple[str, ...]) -> Target:
        folder, index, start = self.folder / name, self.labels.index(name), len(self.labels)
        new, old = range(start, start + len(fine)), range(start)
        train, train_labels = _placed(folder / "ft_set.csv", new, self._train_places)
        equal, equal_labels = _placed(folder / "equivalent_set.csv", new, self._val_places)
        rest, rest_labels = _placed(folder / "unrelated_set.csv", old, self._val_places)
        _check_base(folder / "ft_set.csv", self.train.labels[train], index)
        _check_base(folder / "equivalent_set.csv", self.val.labels[equal], index)
        _check_base(folder / "unrelated_set.csv", self.val.labels[rest], rest_labels)
        if name not in self.kept and len(train) != (n := int(np.sum(self.train.labels == index))):
            raise DataError(
                f"{folder / 'ft_set.csv'} has {len(train)} clips, but train.csv has {n} of its "
                f"label; {_LAYOUT}"
            )
        return Target(
            name=name,
            index=index,
            fine=fine,
            train=train,
            train_labels=train_labels - start,
            equivalent=equal,
            equivalent_labels=equal_labels - start,
            unrelated=rest,
            shared=_left_over(folder, self.val.labels, index, (equal, rest), name in self.kept),
        )


def _placed(path: Path, allowed: range, places: Mapping[str, int]) -> tuple[Indices, Indices]:
    """Places of a file's clips in train.csv or val.csv, and their labels."""
    clips = read_clips(path, allowed)
    unknown = next((name for name in clips.names if name not in places), None)
    if unknown is not None:
        of = "train.csv" if path.name == "ft_set.csv" else "val.csv"
        raise DataError(f"{path} names {unknown}, which is not in {of}; {_LAYOUT}")
    return np.array([places[name] for name in clips.names], dtype=np.int64), clips.labels


def _left_over(
    folder: Path,
    val_base: Indices,
    index: int,
    sets: tuple[Indices, Indices],
    has_namesake: bool,
) -> Indices:
    """Val clips in neither set. Raises DataError on clips in both, or in none without a reason."""
    times = np.zeros(len(val_base), dtype=np.int64)
    for places in sets:
        np.add.at(times, places, 1)
    left = np.flatnonzero(times == 0)
    unexplained = left if not has_namesake else left[val_base[left] != index]
    if np.any(times > 1) or len(unexplained):
        raise DataError(
            f"{folder}: equivalent_set.csv and unrelated_set.csv have {int(np.sum(times > 1))} "
            f"clips in common and lack {len(unexplained)} of val.csv; expected each val clip in one"
        )
    return left


def _check_base(path: Path, base: Indices, expected: int | Indices) -> None:
    wrong = np.flatnonzero(base != expected)
    if len(wrong):
        raise DataError(
            f"{path}: line {wrong[0] + 1} has another base label than its clip has in train.csv or "
            f"val.csv ({base[wrong[0]]}); {_LAYOUT}"
        )


def _check_targets(
    folder: Path,
    targets: Sequence[str],
    groups: Mapping[str, tuple[str, ...]],
    labels: Sequence[str],
) -> None:
    """Raise DataError where groups, base labels and folders do not name the same targets."""
    folders = {path.name for path in folder.iterdir() if path.is_dir()}
    if folders != set(targets):
        odd = sorted(folders ^ set(targets))
        raise DataError(f"{folder}: {odd[0]!r} is a folder or a target of {_SCHEME}, not both")
    for target in targets:
        if target not in groups or target not in labels:
            raise DataError(f"{folder}: the target {target!r} is no group, or no base label")
    fine = {label for group in groups.values() for label in group}
    unknown = sorted(set(labels) - fine - set(targets))
    if unknown:
        raise DataError(f"{folder / 'labels.json'} has {unknown[0]!r}, which is in no group")


def _label_names(path: Path) -> tuple[str, ...]:
    values = _json_table(path)
    names = sorted(values, key=values.__getitem__)
    if [values[name] for name in names] != list(range(len(names))):
        raise DataError(f"{path}: indices are not 0 to {len(names) - 1}, each once")
    return tuple(names)


def _json_table(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; {_LAYOUT}") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}; {_LAYOUT}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} is no table; {_LAYOUT}")
    return values


def read_clips(path: Path, allowed: range) -> Clips:
    """Rows ``file,index`` of a file. Raises DataError on another form, a clip that stands twice, or
    an index outside ``allowed``."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; {_LAYOUT}") from error
    texts = {str(index): index for index in allowed}
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or row[1] not in texts:
            raise DataError(
                f"{path} line {number}: {','.join(row)[:120]!r}; expected FILE,INDEX with an index "
                f"from {allowed.start} to {allowed.stop - 1}"
            )
    names = tuple(row[0] for row in rows)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path} names {twice[0]} twice; expected each clip once")
    return Clips(names=names, labels=np.array([texts[row[1]] for row in rows], dtype=np.int64))
