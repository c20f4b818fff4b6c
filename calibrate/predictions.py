"""Predictions of a classifier: one record per clip, kept as Parquet.

probabilities [N, L] -> Predictions -> predictions.parquet -> calibrate/metrics.py
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from wire.errors import DataError
from wire.whole_file import whole_file

_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("predicted", pa.string()),
        pa.field("confidence", pa.float64(), nullable=False),
        pa.field("probabilities", pa.list_(pa.float64())),
        pa.field("trace", pa.string()),
        pa.field("num_named", pa.int64()),
        pa.field("num_supported", pa.int64()),
    ],
    metadata={"deepintuit_predictions": "1"},
)
_NUM_FIRST_COLUMNS = 6  # those of files from before explanations were checked
_SCHEMAS = (_SCHEMA, pa.schema(list(_SCHEMA)[:_NUM_FIRST_COLUMNS]))
# Softmax in half precision, as an engine may return it, sums to one only so far.
_SUM_TOLERANCE = 1e-3
_AT_ONCE = 4096  # predictions of a row group, whose traces are in memory at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Prediction of one classifier for one clip.

    Example:
        Prediction(sample_id="test-0007", label="normal", predicted="abnormal", confidence=0.7,
                   probabilities=(0.7, 0.3), trace="<think>...")
    """

    sample_id: str
    label: str
    """The true label."""
    predicted: str | None
    """Predicted label; None: the answer could not be parsed. It counts as wrong, with confidence
    0."""
    confidence: float
    """Probability of the predicted label, in [0, 1]."""
    probabilities: tuple[float, ...] | None
    """One per label of the set, in its order (sorted names); None: the method gives none."""
    trace: str | None
    """The trace that the classifier was shown, or wrote."""
    num_named: int | None = None
    """Events that its explanation names; None: no narrative to compare with."""
    num_supported: int | None = None
    """Of these, the events that the clip's action narrative tells."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"{self.sample_id}: confidence {self.confidence} is not in [0, 1]")
        if self.predicted is None and self.confidence != 0.0:
            raise ValueError(
                f"{self.sample_id}: confidence {self.confidence} without a predicted label; use 0"
            )
        if self.probabilities is not None:
            low = min(self.probabilities, default=0.0)
            total = math.fsum(self.probabilities)
            if not (low >= 0.0 and abs(total - 1.0) <= _SUM_TOLERANCE):
                raise ValueError(
                    f"{self.sample_id}: probabilities {self.probabilities} are not >= 0 with sum 1"
                )


def from_probabilities(
    sample_ids: Sequence[str],
    labels: Sequence[str],
    probabilities: ArrayLike,
    label_names: Sequence[str],
    traces: Sequence[str | None] | None = None,
) -> list[Prediction]:
    """The most probable label of each row of ``probabilities`` [N, L], with its probability.

    Of equal ones the first in ``label_names`` is taken.
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    if rows.shape != (len(sample_ids), len(label_names)):
        raise ValueError(
            f"probabilities have shape {rows.shape}, expected one row for each of "
            f"{len(sample_ids)} samples, one column for each of {len(label_names)} labels"
        )
    shown = traces if traces is not None else [None] * len(sample_ids)
    return [
        Prediction(
            sample_id=sample_id,
            label=label,
            predicted=label_names[int(row.argmax())],
            confidence=min(float(row.max()), 1.0),
            probabilities=tuple(row.tolist()),
            trace=trace,
        )
        for sample_id, label, row, trace in zip(sample_ids, labels, rows, shown, strict=True)
    ]


def from_votes(
    sample_id: str, label: str, answers: Sequence[str | None], label_names: Sequence[str]
) -> Prediction:
    """The most frequent answer; probabilities are shares of the votes that could be parsed.

    Of equal ones the first in ``label_names`` is taken. Without a vote there is no answer.
    """
    counts = np.array([answers.count(name) for name in label_names], dtype=np.float64)
    if not counts.any():
        return Prediction(
            sample_id=sample_id,
            label=label,
            predicted=None,
            confidence=0.0,
            probabilities=None,
            trace=None,
        )
    return from_probabilities([sample_id], [label], [counts / counts.sum()], label_names)[0]


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> list[Prediction]:
    """Write as Parquet, in order; the file appears by rename. Returns the predictions without their
    traces, which are in memory only while they are written."""
    kept: list[Prediction] = []
    left = iter(predictions)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        whole_file(path) as partial,
        pq.ParquetWriter(partial, _SCHEMA, compression="zstd") as writer,
    ):
        while (some := list(islice(left, _AT_ONCE))) or not kept:
            columns = {name: [getattr(p, name) for p in some] for name in _SCHEMA.names}
            writer.write_table(pa.table(columns, schema=_SCHEMA))
            kept += [replace(prediction, trace=None) for prediction in some]
            if not some:
                break
    return kept


def read_predictions(path: Path) -> list[Prediction]:
    """The inverse of ``write_predictions``. Raises DataError if the file is no such file."""
    return list(iter_predictions(path))


def iter_predictions(path: Path) -> Iterator[Prediction]:
    """``read_predictions``, some at a time, for a file that memory would not hold."""
    try:
        with pq.ParquetFile(path) as file:  # read_table would import pandas
            if not any(file.schema_arrow.equals(schema) for schema in _SCHEMAS):
                names = file.schema_arrow.names
                raise DataError(
                    f"{path} has the columns {names}, expected predictions: {_SCHEMA.names}"
                )
            for batch in file.iter_batches(_AT_ONCE):
                yield from _predictions(path, batch.to_pylist())
    except (OSError, ValueError) as error:  # Arrow's own errors, and names that are not UTF-8
        raise DataError(f"cannot read predictions from {path}: {error}; write them anew") from error


def _predictions(path: Path, rows: Sequence[dict[str, Any]]) -> list[Prediction]:
    try:
        return [Prediction(**_plain(row)) for row in rows]
    except ValueError as error:
        raise DataError(f"{path}: {error}; write the predictions anew") from error


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    values = row["probabilities"]
    return row | {"probabilities": tuple(values) if isinstance(values, list) else None}
