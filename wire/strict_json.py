"""Strict JSON: NaN and infinity, for which JSON has no numbers, are null.

values -> to_json -> text that jq, JavaScript and pandas read
text, with the NaN of our earlier versions too -> from_json -> values, null in its place
"""

import json
import math
from typing import Any


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON of a value; a number that is not finite is null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(finite(value), indent=indent, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """Value of a JSON text; NaN and Infinity, which are no JSON, are read as null. Raises
    ValueError."""
    return json.loads(text, parse_constant=lambda _: None)


def finite(value: Any) -> Any:
    """A value for JSON, with None in place of every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value
