import json
import math
from typing import Any, NoReturn

import numpy as np
import pytest

from wire.strict_json import from_json, to_json


def refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def strict(text: str) -> Any:
    """As jq and JavaScript read it: NaN and Infinity are no JSON."""
    return json.loads(text, parse_constant=refuse)


def test_a_number_that_is_not_finite_is_null_at_any_depth() -> None:
    value = {"a": math.nan, "b": [1.5, math.inf, (-math.inf, {"c": np.float64("nan")})], "d": True}
    assert strict(to_json(value)) == {"a": None, "b": [1.5, None, [None, {"c": None}]], "d": True}


def test_all_else_is_as_json_has_it() -> None:
    value = {"text": "NaN \x1b[31m \u202e \ud800", "none": None, "int": 10**20, "empty": []}
    assert strict(to_json(value, indent=2)) == value


def test_what_earlier_versions_wrote_as_nan_is_read_as_null() -> None:
    assert from_json('{"a": NaN, "b": [Infinity, -Infinity, 1.0]}') == {
        "a": None,
        "b": [None, None, 1.0],
    }
    with pytest.raises(ValueError, match="Expecting"):
        from_json('{"a": Na')
