"""Features of traces, and the reference: those of the archived traces that a classifier knows.

    archived traces, answered as in use -> TraceFeatures -> TraceReference -> reference.json,
    reference.safetensors

A reference is made of clips that nothing learned from (val and held-out ones), one trace of each,
sampled as in use: only such traces are exchangeable with served ones.
"""

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from wire.errors import DataError
from wire.labels import LabelSet, reasoning_in
from wire.whole_file import replace_json, whole_file

FORMAT = 1
_NAME = "reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFeatures:
    """Features of one trace, and of the classifier's answer to it.

    Example:
        TraceFeatures(num_tokens=214, mean_logprob=-0.31, parsed=True, answer="normal",
                      confidence=0.93)
    """

    num_tokens: int
    mean_logprob: float | None
    """Of its tokens, under the weights that wrote it, at temperature 1; None: not known."""
    parsed: bool
    """Whether it has reasoning and an answer."""
    answer: str | None
    """The label that it answers; None: none of the label set."""
    confidence: float | None
    """The classifier's calibrated probability of its most probable label; None: not asked."""

    @classmethod
    def of(
        cls,
        text: str,
        logprobs: Sequence[float],
        labels: LabelSet,
        confidence: float | None = None,
    ) -> "TraceFeatures":
        """Features of a trace as the policy wrote it, with one logprob per token."""
        answer = labels.answer_in(text)
        return cls(
            num_tokens=len(logprobs),
            mean_logprob=float(np.mean(logprobs)) if len(logprobs) else None,
            parsed=answer is not None and reasoning_in(text) is not None,
            answer=answer,
            confidence=confidence,
        )


@dataclass(frozen=True, slots=True, eq=False)
class TraceColumns:
    """Features of many traces, as arrays of one length; NaN is a number that is not known."""

    num_tokens: NDArray[np.float32]
    mean_logprob: NDArray[np.float32]
    confidence: NDArray[np.float32]
    parsed: NDArray[np.bool_]
    answer: NDArray[np.int16]
    """Index of the label; -1: none."""

    @classmethod
    def of(cls, traces: Iterable[TraceFeatures], label_names: Sequence[str]) -> "TraceColumns":
        """Columns of features. Raises DataError for an answer that is no label."""
        rows = list(traces)
        place = {name: index for index, name in enumerate(label_names)}
        for row in rows:
            if row.answer is not None and row.answer not in place:
                raise DataError(
                    f"a trace answers {row.answer!r}, expected one of {list(label_names)}"
                )
        return cls(
            num_tokens=np.array([row.num_tokens for row in rows], np.float32),
            mean_logprob=_numbers(row.mean_logprob for row in rows),
            confidence=_numbers(row.confidence for row in rows),
            parsed=np.array([row.parsed for row in rows], np.bool_),
            answer=np.array([place.get(row.answer or "", -1) for row in rows], np.int16),
        )

    def __len__(self) -> int:
        return len(self.parsed)

    def __getitem__(self, rows: Any) -> "TraceColumns":
        return TraceColumns(*(getattr(self, one.name)[rows] for one in fields(self)))

    def joined(self, other: "TraceColumns") -> "TraceColumns":
        """These traces, then the other ones."""
        return TraceColumns(
            *(
                np.concatenate([getattr(self, one.name), getattr(other, one.name)])
                for one in fields(self)
            )
        )

    def write(self, path: Path) -> None:
        """Write as safetensors, by rename."""
        with whole_file(path) as partial:
            save_file(
                {o.name: np.ascontiguousarray(getattr(self, o.name)) for o in fields(self)}, partial
            )

    @classmethod
    def read(cls, path: Path) -> "TraceColumns":
        """The inverse of ``write``. Raises DataError if the file holds something else."""
        try:
            tensors = load_file(path)
            columns = cls(*(tensors[one.name] for one in fields(cls)))
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError(f"{path} holds no features of traces: {error!r}") from error
        if {len(tensors[one.name]) for one in fields(cls)} != {len(columns)}:
            raise DataError(f"{path}: columns of different lengths; make the reference anew")
        return columns


class TraceLog:
    """Features of served traces, one after another: 15 bytes for each."""

    def __init__(self, columns: TraceColumns) -> None:
        """``columns``: those so far."""
        self._arrays = {
            one.name: array(np.dtype(getattr(columns, one.name).dtype).char.replace("?", "b"))
            for one in fields(TraceColumns)
        }
        self.extend(columns)

    def __len__(self) -> int:
        return len(self._arrays["parsed"])

    def extend(self, columns: TraceColumns) -> None:
        """Add traces."""
        for name, values in self._arrays.items():
            values.frombytes(np.ascontiguousarray(getattr(columns, name)).tobytes())

    def columns(self, last: int | None = None) -> TraceColumns:
        """All of them, or the last ones."""
        first = 0 if last is None else max(0, len(self) - last)
        parts = {name: np.array(values[first:]) for name, values in self._arrays.items()}
        return TraceColumns(**parts | {"parsed": parts["parsed"].astype(np.bool_)})


@dataclass(frozen=True, slots=True, eq=False)
class TraceReference:
    """Features of the archived traces that served ones are compared with."""

    label_names: tuple[str, ...]
    traces: TraceColumns

    @classmethod
    def of(cls, traces: Iterable[TraceFeatures], label_names: Sequence[str]) -> "TraceReference":
        """Reference of features. Raises DataError without a trace."""
        columns = TraceColumns.of(traces, label_names)
        if not len(columns):
            raise DataError("a reference without a trace; answer val or held-out clips first")
        return cls(tuple(label_names), columns)

    def save(self, directory: Path) -> None:
        """Write reference.safetensors, then reference.json, each by rename."""
        directory.mkdir(parents=True, exist_ok=True)
        self.traces.write(directory / f"{_NAME}.safetensors")
        about = {
            "format": FORMAT,
            "label_names": self.label_names,
            "num_traces": len(self.traces),
        }
        replace_json(directory / f"{_NAME}.json", about)

    @classmethod
    def load(cls, directory: Path) -> "TraceReference":
        """The inverse of ``save``, bit for bit. Raises DataError if there is no whole reference."""
        path = directory / f"{_NAME}.json"
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            names, number, num = about["label_names"], about["format"], about["num_traces"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no reference of traces: {error!r}") from error
        if number != FORMAT:
            raise DataError(f"{path}: format {number}, expected {FORMAT}; fit the classifier anew")
        columns = TraceColumns.read(directory / f"{_NAME}.safetensors")
        if len(columns) != num or not num:
            raise DataError(f"{path}: {len(columns)} traces, expected {num}; copy it anew")
        return cls(tuple(names), columns)


def _numbers(values: Iterable[float | None]) -> NDArray[np.float32]:
    return np.array([np.nan if value is None else value for value in values], np.float32)
