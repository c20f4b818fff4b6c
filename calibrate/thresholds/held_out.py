"""Held-out clips of a classifier: calibrated probabilities and true labels, kept in its directory.

    parts of a fit -> HeldOut -> held_out.json     published with the classifier
    held_out.json -> HeldOut -> thresholds of policies (calibrate/thresholds/label_threshold.py)

No id and no name of a clip is in it. Directories of earlier versions have none.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from wire.config import Config, validate
from wire.errors import ConfigError, DataError
from wire.whole_file import write_json

HELD_OUT_FILE = "held_out.json"
FORMAT = 1
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredPart:
    """Clips of one part, scored by the classifier."""

    truth: NDArray[np.int64]
    """[N] indices of the true labels."""
    probabilities: Floats
    """[N, L], calibrated."""
    read: NDArray[np.bool_]
    """[N]: whether the clip has a trace that can be read."""

    def __post_init__(self) -> None:
        if not len(self.truth) == len(self.probabilities) == len(self.read):
            raise DataError(
                f"{len(self.truth)} labels, {len(self.probabilities)} rows of probabilities and "
                f"{len(self.read)} marks; expected one of each per clip"
            )

    def __len__(self) -> int:
        return len(self.truth)

    @classmethod
    def of(cls, truth: ArrayLike, probabilities: ArrayLike, read: ArrayLike | None = None) -> Self:
        """A part from plain numbers; ``read``: all clips where it is left out."""
        labels = np.asarray(truth, dtype=np.int64)
        marks = np.ones(len(labels), np.bool_) if read is None else np.asarray(read, np.bool_)
        return cls(
            truth=labels, probabilities=np.asarray(probabilities, dtype=np.float64), read=marks
        )


class _Part(Config):
    truth: tuple[int, ...]
    probabilities: tuple[tuple[float, ...], ...]
    read: tuple[bool, ...]


class _File(Config):
    """What held_out.json holds."""

    format: int
    label_names: tuple[str, ...] = Field(min_length=2)
    held_out: _Part
    val: _Part


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Held-out clips of a classifier, and the val clips, on which a test may choose its start."""

    label_names: tuple[str, ...]
    held_out: ScoredPart
    """Clips that nothing learned from and nothing was chosen on."""
    val: ScoredPart
    """Clips of temperature and choice: no promise is made with them."""

    def save(self, directory: Path) -> None:
        """Write held_out.json into a directory; its numbers are exact."""
        write_json(
            directory / HELD_OUT_FILE,
            {
                "format": FORMAT,
                "label_names": self.label_names,
                "held_out": _plain(self.held_out),
                "val": _plain(self.val),
            },
        )

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """Held-out clips of a classifier's directory; None where it was published without. Raises
        DataError if the file is damaged or of another format."""
        file = directory / HELD_OUT_FILE
        if not file.is_file():
            return None
        try:
            content = validate(_File, json.loads(file.read_text(encoding="utf-8")), str(file))
            if content.format != FORMAT:
                raise DataError(f"it has the format {content.format}, expected {FORMAT}")
            return cls(
                label_names=content.label_names,
                held_out=_part(content.held_out, content.label_names),
                val=_part(content.val, content.label_names),
            )
        except (OSError, ValueError, ConfigError, DataError) as error:
            raise DataError(
                f"{file} cannot be read: {error}; publish the classifier anew"
            ) from error


def _plain(part: ScoredPart) -> dict[str, Any]:
    return {
        "truth": part.truth.tolist(),
        "probabilities": part.probabilities.tolist(),
        "read": part.read.tolist(),
    }


def _part(values: _Part, names: Sequence[str]) -> ScoredPart:
    lengths = {len(row) for row in values.probabilities}
    if lengths - {len(names)}:
        raise DataError(f"rows have {sorted(lengths)} numbers for {len(names)} labels")
    rows = np.array(values.probabilities, np.float64).reshape(-1, len(names))
    part = ScoredPart.of(values.truth, rows, values.read)
    if len(part) and not (part.truth.min() >= 0 and part.truth.max() < len(names)):
        raise DataError(f"true labels must be indices below {len(names)}")
    return part
