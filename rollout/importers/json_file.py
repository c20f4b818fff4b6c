"""JSON files of other people: a list of objects, or one object a line.

path -> (place, object) -> parse -> Record, or one DataError that gathers all faults
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rollout.importers.record import Record
from rollout.manifest import raise_if_any
from wire.errors import DataError

Row = Mapping[str, Any]


def read_records(path: Path, parse: Callable[[str, Row], Record]) -> Iterator[Record]:
    """Parse each object of a file. Raises DataError, last, naming what is no record."""
    faults = []
    for where, row in _rows(path):
        try:
            yield parse(where, row)
        except DataError as error:
            faults.append(str(error))
    raise_if_any(str(path), faults)


def load(path: Path) -> Any:
    """The JSON value in a file, or a list of the values on its lines (JSON Lines)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; give a JSON file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
    try:
        return json.loads(text)
    except ValueError as whole:
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise DataError(f"{path} is not valid JSON: {whole}") from whole


def text_in(row: Row, name: str, where: str) -> str:
    """A text that a record must have. Raises DataError if it is missing, empty or no text."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name!r} is {_short(value)}, expected text")
    return value.strip()


def turns_in(row: Row, where: str) -> list[Row]:
    """The conversation of a record. Raises DataError if it is no list of objects."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns or not all(isinstance(t, dict) for t in turns):
        raise DataError(
            f"{where}: 'conversations' is {_short(turns)}, expected a list of turns; "
            "is --format the right one?"
        )
    return turns


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    value = load(path)
    if isinstance(value, dict):
        value = [value]  # a file of one line
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise DataError(f"{path} is no list of records; expected a JSON list of objects")
    if not value:
        raise DataError(f"{path} holds no records; leave it out")
    for number, row in enumerate(value, start=1):
        yield f"{path.name} record {number}", row


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
