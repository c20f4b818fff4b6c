"""Label files: DeepIntuit's vocabulary, SSv2's, and lists of names.

policy_info.json   {title: [{"Policy Token": label word, "playbook_rule": [sentence, ...]}]}
labels.json        {name: number} or {number: name}, as SSv2 and Hugging Face have them
labels.txt         a name a line, counted from 0; or ``number name`` or ``name number``
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rollout.addresses import is_remote, local_path
from rollout.importers.json_file import load, read_text
from rollout.importers.record import Record
from rollout.importers.rows import plain_label
from rollout.importers.text import mend
from wire.errors import DataError
from wire.labels import Label

_NUMBER_FIRST = re.compile(r"(\d+)[\s,;:]+(\S.*)")
_HEADER_WORD = "(?:id|index|number|label|name|class)"
_HEADER = re.compile(rf"{_HEADER_WORD}[,;\t]{_HEADER_WORD}", re.IGNORECASE)
_NUMBER_LAST = re.compile(r"(.*\S)[\s,;:]+(\d+)")


def read_labels(address: str) -> list[Label] | None:
    """The labels that a source defines; None if it holds records instead."""
    path = Path(local_path(address))
    if is_remote(address) or path.suffix.lower() != ".json" or path.is_dir():
        return None
    value = load(path)
    if not isinstance(value, dict) or not value:
        return None
    if all(map(_is_entry, value.values())):
        return [_label(path, title, entry[0]) for title, entry in value.items()]
    names = _numbered(value)
    return [Label(name=name) for name in names.values()] if names else None


def read_names(path: Path) -> dict[int, str]:
    """Number -> name of ``--label-names``. Raises DataError if a number or name is there twice."""
    if path.suffix.lower() == ".json":
        value = load(path)
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            value = dict(enumerate(value))
        pairs = _numbered({str(k): v for k, v in value.items()}) if isinstance(value, dict) else {}
    else:
        pairs = _pairs(path, [line.strip() for line in read_text(path).splitlines()])
    if not pairs:
        raise DataError(
            f"{path} names no labels; expected a name a line, 'number name' lines, or JSON "
            "{name: number}"
        )
    if len(set(map(str.casefold, pairs.values()))) < len(pairs):
        raise DataError(f"{path} has a label twice, or two numbers for it; give each once")
    return pairs


def with_name(record: Record, names: Mapping[int, str]) -> Record:
    """The record with the name of its number as label. Raises DataError if it has no name."""
    label = record.label
    if label is None or not names or label in names.values():
        return record
    if not label.isdigit() or int(label) not in names:
        raise DataError(
            f"{record.where}: label {label!r} is not in --label-names, which has "
            f"{min(names)} to {max(names)}"
        )
    return replace(record, label=names[int(label)])


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether all labels are bare numbers, which tell a model nothing."""
    return all(label.isdigit() for label in labels)


def _pairs(path: Path, lines: list[str]) -> dict[int, str]:
    body = [line for line in lines if line]
    body = body[1:] if body and _HEADER.fullmatch(body[0]) else body
    first = [_NUMBER_FIRST.fullmatch(line) for line in body]
    last = [_NUMBER_LAST.fullmatch(line) for line in body]
    if body and all(first):
        pairs = [(int(m[1]), plain_label(m[2])) for m in first if m]
    elif body and all(last):
        pairs = [(int(m[2]), plain_label(m[1])) for m in last if m]
    else:
        pairs = [(i, plain_label(line)) for i, line in enumerate(body)]
    if len({number for number, _ in pairs}) < len(pairs):
        raise DataError(f"{path} has a number twice; give each label one number")
    return dict(pairs)


def _numbered(value: Mapping[str, Any]) -> dict[int, str]:
    """{name: number} or {number: name} as {number: name}; empty if it is neither."""
    if all(str(v).isdigit() for v in value.values()):
        pairs = [(int(v), k) for k, v in value.items()]
    elif all(k.isdigit() and isinstance(v, str) for k, v in value.items()):
        pairs = [(int(k), v) for k, v in value.items()]
    else:
        return {}
    return {number: plain_label(name) for number, name in sorted(pairs)}


def _is_entry(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 1
        and isinstance(value[0], dict)
        and "Policy Token" in value[0]
    )


def _label(path: Path, title: str, entry: Mapping[str, Any]) -> Label:
    rules = entry.get("playbook_rule")
    first = rules[0] if isinstance(rules, list) and rules else rules
    definition = " ".join(mend(first).split()) if isinstance(first, str) else ""
    try:
        return Label(name=mend(str(entry["Policy Token"])), definition=definition)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise DataError(f"{path}: {title!r} gives no label: {reason}") from error
