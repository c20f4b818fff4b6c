"""JSON files of other people: a list of objects, or one object a line."""

import json
from pathlib import Path
from typing import Any

from rollout.importers.rows import Row
from wire.errors import DataError


def load(path: Path) -> Any:
    """The JSON value in a file, or a list of the values on its lines (JSON Lines)."""
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as whole:
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise DataError(f"{path} is not valid JSON: {whole}") from whole


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark. Raises DataError if it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; give the path of a file or folder"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error


def json_rows(path: Path) -> list[tuple[str, Row]]:
    """(place, object) of each record. Raises DataError if the file holds none."""
    value = load(path)
    if isinstance(value, dict):
        value = [value]  # a file of one line
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise DataError(f"{path} is no list of records; expected a JSON list of objects")
    return [(f"{path.name} record {number}", row) for number, row in enumerate(value, start=1)]
