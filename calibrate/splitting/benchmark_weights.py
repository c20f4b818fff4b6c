"""Weights file of a split benchmark: a head, and features of clips by their file names.

    FILE.safetensors   weight [L, D], bias [L]       the head; rows by the index of labels.json
                       features [N, C, D]            of val clips: what the head reads, C crops
                       train_features [M, C, D]      optional: low-shot methods need them
                       vlm_features [N, E]           optional: the VLM baseline needs them
              metadata clips, train_clips, vlm_clips JSON lists of file names, as in the CSVs
                       labels                        optional JSON list: the rows' labels

A crop is one view of a clip (segments x crops of the paper); [N, D] means one. Features may be
float16, float32 or float64.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from wire.errors import DataError
from wire.whole_file import whole_file

Floats = NDArray[np.floating]

_FORM = "expected weight [L, D], bias [L], features [N, C, D] and their clips in the metadata"
_FEATURES = {"features": "clips", "train_features": "train_clips", "vlm_features": "vlm_clips"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFeatures:
    """Features of clips, several rows (crops) each."""

    names: tuple[str, ...]
    """[N] file names."""
    values: Floats
    """[N, C, D]"""

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or len(self.values) != len(self.names):
            raise DataError(
                f"features {list(self.values.shape)} of {len(self.names)} clips; expected "
                "[N, C, D] or [N, D] with a name per clip"
            )
        if len(set(self.names)) != len(self.names):
            raise DataError("features name a clip twice; give each clip once")

    def rows(self, names: Sequence[str]) -> Floats:
        """[len(names), C, D], float32, in the order of ``names``. Raises DataError that names clips
        without features."""
        places = {name: place for place, name in enumerate(self.names)}
        lacking = [name for name in names if name not in places]
        if lacking:
            raise DataError(
                f"{len(lacking)} of {len(names)} clips have no features, such as {lacking[0]}; "
                "write features of every clip of the data set's CSVs, under the same names"
            )
        rows = self.values[[places[name] for name in names]].astype(np.float32)
        if not np.isfinite(rows).all():
            raise DataError("features are not all finite; extract them anew")
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkWeights:
    """A head and the features of a data set's clips."""

    weight: Floats
    """[L, D]"""
    bias: Floats
    """[L]"""
    val: ClipFeatures
    train: ClipFeatures | None = None
    vlm: ClipFeatures | None = None
    """Embeddings of val clips [N, 1, E] of the model whose text encoder names the sub-classes."""
    labels: tuple[str, ...] | None = None
    """[L] labels of the rows, where the file has them."""


def read_weights(path: Path) -> BenchmarkWeights:
    """Read a weights file. Raises DataError that says what is missing in it."""
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys() if key in _TENSORS}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: numpy has no bfloat16
        raise DataError(f"{path} is no safetensors file of weights: {error}; {_FORM}") from error
    missing = [key for key in ("weight", "bias", "features") if key not in tensors]
    if missing:
        raise DataError(f"{path} has no {', '.join(missing)}; {_FORM}")
    weight, bias = tensors["weight"], tensors["bias"]
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or not np.isfinite(weight).all():
        raise DataError(
            f"{path}: weight {list(weight.shape)} and bias {list(bias.shape)}; {_FORM}, all finite"
        )
    clips = {key: _clip_features(path, key, tensors, metadata) for key in _FEATURES}
    val = clips["features"]
    assert val is not None, "features are there"
    for one in (val, clips["train_features"]):
        if one is not None and one.values.shape[2] != weight.shape[1]:
            raise DataError(
                f"{path}: features of width {one.values.shape[2]}, but the head reads "
                f"{weight.shape[1]}; write what the head reads"
            )
    labels = _names(path, "labels", metadata) if "labels" in metadata else None
    if labels is not None and len(labels) != len(weight):
        raise DataError(f"{path}: {len(labels)} labels of {len(weight)} rows; {_FORM}")
    return BenchmarkWeights(
        weight=weight,
        bias=bias,
        val=val,
        train=clips["train_features"],
        vlm=clips["vlm_features"],
        labels=None if labels is None else tuple(labels),
    )


def write_weights(path: Path, weights: BenchmarkWeights) -> None:
    """Write a weights file, whole or not at all."""
    tensors = {"weight": weights.weight, "bias": weights.bias}
    metadata = {}
    parts = {"features": weights.val, "train_features": weights.train, "vlm_features": weights.vlm}
    for key, clips in parts.items():
        if clips is not None:
            tensors[key] = clips.values
            metadata[_FEATURES[key]] = json.dumps(clips.names)
    if weights.labels is not None:
        metadata["labels"] = json.dumps(weights.labels)
    plain = {key: np.ascontiguousarray(values) for key, values in tensors.items()}
    with whole_file(path) as partial:
        save_file(plain, partial, metadata=metadata)


_TENSORS = ("weight", "bias", *_FEATURES)


def _clip_features(
    path: Path, key: str, tensors: Mapping[str, Floats], metadata: Mapping[str, str]
) -> ClipFeatures | None:
    if key not in tensors:
        return None
    values = tensors[key]
    try:
        return ClipFeatures(
            names=tuple(_names(path, _FEATURES[key], metadata)),
            values=values[:, None] if values.ndim == 2 else values,
        )
    except DataError as error:
        raise DataError(f"{path}: {key}: {error}") from error


def _names(path: Path, key: str, metadata: Mapping[str, str]) -> list[str]:
    try:
        names = json.loads(metadata[key])
    except (KeyError, ValueError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: its metadata have no JSON list {key!r}; {_FORM}")
    return names
