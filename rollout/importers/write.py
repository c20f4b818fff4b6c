"""The manifest and the labels of a recipe, written whole or not at all."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wire.labels import LabelSet


def write_manifest(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines."""
    _write(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_labels(path: Path, labels: LabelSet) -> None:
    """Write ``[[labels]]`` tables, in the order of the label indices, to be pasted in a recipe."""
    ordered = sorted(labels.labels, key=lambda label: label.name)
    tables = [
        f"[[labels]]\nname = {_toml(label.name)}\ndefinition = {_toml(label.definition)}\n"
        for label in ordered
    ]
    _write(path, "".join(tables))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _toml(text: str) -> str:
    """A TOML string: JSON's, but for the one control character that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
