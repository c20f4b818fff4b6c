"""DeepIntuit's label vocabulary (policy_info.json) -> Labels with a sentence each.

{title: [{"Policy Token": label word, "playbook_rule": [sentence, ...], ...}]}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rollout.importers.json_file import load
from rollout.importers.text import mend
from wire.errors import DataError
from wire.labels import Label


def read_labels(path: Path) -> list[Label] | None:
    """The labels of a vocabulary file, defined by their first rule; None if it is another file."""
    value = load(path)
    if not isinstance(value, dict) or not value or not all(map(_is_entry, value.values())):
        return None
    return [_label(path, title, entry[0]) for title, entry in value.items()]


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
