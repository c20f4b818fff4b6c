"""The manifest and the labels of a recipe, written whole or not at all."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rollout.manifest import read_manifest
from wire.labels import LabelSet


def write_manifest(path: Path, rows: Iterable[Mapping[str, Any]], labels: LabelSet) -> None:
    """Write rows as JSON lines; they are read back as a run would before they get their name."""
    partial = path.with_name(path.name + ".partial")
    try:
        _write(partial, "".join(json.dumps(row) + "\n" for row in rows))
        read_manifest(partial, labels)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def write_labels(path: Path, labels: LabelSet) -> None:
    """Write ``[[labels]]`` tables, in the order of the label indices, to be pasted in a recipe."""
    ordered = sorted(labels.labels, key=lambda label: label.name)
    tables = [
        f"[[labels]]\nname = {_toml(label.name)}\ndefinition = {_toml(label.definition)}\n"
        for label in ordered
    ]
    partial = path.with_name(path.name + ".partial")
    _write(partial, "".join(tables))
    partial.rename(path)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _toml(text: str) -> str:
    """A TOML string: JSON's, but for the one control character that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
