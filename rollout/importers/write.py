"""The manifest and the labels of a recipe, written whole or not at all."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from wire.errors import DataError
from wire.labels import LabelSet
from wire.whole_file import sync_to_disk, whole_file


def write_import(
    manifest: Path,
    rows: Sequence[Mapping[str, Any]],
    labels_out: Path | None,
    labels: LabelSet,
) -> None:
    """Write the rows as Parquet or JSON lines, by suffix, and the labels if asked for.

    Both or neither. Raises DataError if a column's values are of several types, which Parquet
    cannot hold.
    """
    with ExitStack() as both:
        if manifest.suffix == ".parquet":
            both.enter_context(_whole(manifest, lambda partial: _write_parquet(partial, rows)))
        else:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            both.enter_context(_whole(manifest, lambda partial: _write_text(partial, text)))
        if labels_out:
            lines = labels_toml(labels)
            both.enter_context(_whole(labels_out, lambda partial: _write_text(partial, lines)))


def labels_toml(labels: LabelSet) -> str:
    """``[[labels]]`` tables, in the order of the label indices, to be pasted in a recipe."""
    ordered = sorted(labels.labels, key=lambda label: label.name)
    return "".join(
        f"[[labels]]\nname = {_toml(label.name)}\ndefinition = {_toml(label.definition)}\n"
        for label in ordered
    )


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

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


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


@contextmanager
def _whole(path: Path, write: Callable[[Path], object]) -> Iterator[None]:
    """``write`` beside the place; at the end without an error, move there what is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        write(partial)
        sync_to_disk(partial)  # before another file of the import gets its name
        yield


def _toml(text: str) -> str:
    """A TOML string: JSON's, but for the one control character that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
