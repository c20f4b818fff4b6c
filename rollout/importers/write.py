"""The manifest and the labels of a recipe, written whole or not at all."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from wire.errors import DataError
from wire.labels import LabelSet


def write_manifest(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as Parquet or JSON lines, by suffix.

    Raises DataError if a column's values are of several types, which Parquet cannot hold.
    """
    if path.suffix == ".parquet":
        _write_whole(path, lambda partial: _write_parquet(partial, rows))
    else:
        _write(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_labels(path: Path, labels: LabelSet) -> None:
    """Write ``[[labels]]`` tables, in the order of the label indices, to be pasted in a recipe."""
    ordered = sorted(labels.labels, key=lambda label: label.name)
    tables = [
        f"[[labels]]\nname = {_toml(label.name)}\ndefinition = {_toml(label.definition)}\n"
        for label in ordered
    ]
    _write(path, "".join(tables))


def _write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values, from_pandas=False)
        except pa.ArrowException as error:
            raise DataError(
                f"column {name!r} has values of several types, which Parquet cannot hold "
                f"({error}); write a .jsonl manifest"
            ) from error
        if pa.types.is_null(columns[name].type):
            columns[name] = pa.array(values, pa.string())
    pq.write_table(pa.table(columns), path)


def _write(path: Path, text: str) -> None:
    _write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8", newline=""))


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """``write`` beside the place, and move there what is whole and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _toml(text: str) -> str:
    """A TOML string: JSON's, but for the one control character that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
