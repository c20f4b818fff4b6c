"""Manifests over the demo's clips whose labels are made of parts: the first event, and the last.

    demo's manifest.jsonl -> OUT/manifest.jsonl   one first event is one coarse label: ``left``
                          -> OUT/measure.jsonl    test clips with all labels fine
                          -> OUT/shots.jsonl      clips to learn from, one for each of its parts

``left then up`` is a clip that begins with left and ends with up. The clips of one first event are
given its name alone, and all others both events: a classifier of these labels can be split, since
its other labels show what "then up" adds.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cluster.demo.events import EVENTS
from wire.errors import ConfigError, DataError
from wire.whole_file import whole_file

COARSE = "left"
"""The first event that the demo gives one label."""
FILES = ("manifest.jsonl", "measure.jsonl", "shots.jsonl")
_NUM_TRAIN = 8


def fine_label(first: str, last: str) -> str:
    """Label of clips that begin and end with these events."""
    return f"{first} then {last}"


def fine_labels(first: str) -> tuple[str, ...]:
    """Labels of the clips that begin with an event."""
    return tuple(fine_label(first, last) for last in EVENTS)


def base_labels(coarse: str = COARSE) -> tuple[str, ...]:
    """Labels with the clips of one first event told apart no further."""
    others = (name for first in EVENTS if first != coarse for name in fine_labels(first))
    return (coarse, *others)


def write_pairs(data: Path, out: Path, coarse: str = COARSE) -> Path:
    """Write the manifests of a demo's data set; returns the one to fit to. The clips to learn from
    are those of ``train`` and of ``cal``: no policy is trained on labels here, so but a few need be
    ``train``, which a run must have. Raises ConfigError if ``out`` has manifests already, DataError
    if ``data`` is no data set of the demo."""
    if any((out / name).exists() for name in FILES):
        raise ConfigError(f"{out} holds manifests already; give a new directory")
    rows = [_row(row, data, out) for row in _rows(data / "manifest.jsonl")]
    trained = [row for row in rows if row["split"] == "train"]
    for row in trained[_NUM_TRAIN:]:
        row["split"] = "cal"
    learned = [row for row in rows if row["split"] == "cal"]
    shots = [
        next(row for row in learned if row["label"] == name)
        for name in fine_labels(coarse)
        if any(row["label"] == name for row in learned)
    ]
    out.mkdir(parents=True, exist_ok=True)
    parts = fine_labels(coarse)
    _write(out / FILES[0], [{**r, "label": coarse} if r["label"] in parts else r for r in rows])
    _write(out / FILES[1], [row for row in rows if row["split"] == "test"])
    _write(out / FILES[2], shots)
    return out / FILES[0]


def _rows(manifest: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{manifest} cannot be read: {error}; give the folder that `deepintuit make-demo-data` "
            "wrote"
        ) from error


def _row(row: dict[str, Any], data: Path, out: Path) -> dict[str, Any]:
    try:
        first, _, last = row["combination"].split("-")
        video = os.path.relpath(data / row["video"], out)
        label = fine_label(first, last)
        return {"id": row["id"], "video": video, "label": label, "split": row["split"]}
    except (KeyError, ValueError, AttributeError) as error:
        raise DataError(
            f"a row of {data} names no combination of three events ({error!r}); give the folder "
            "that `deepintuit make-demo-data` wrote"
        ) from error


def _write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    with whole_file(file) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
