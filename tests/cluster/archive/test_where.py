"""Filters in words keep the rows that a person means, and say what is wrong with a word."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.archive.where import parse_where
from wire.errors import ConfigError

ROWS = pa.table(
    {
        "label": ["undo", "redo", "null", "a|b", 'say "no"', None],
        "reward": [0.5, 1.0, 2.0, None, -1.0, 0.0],
        "step": pa.array([1, 2, 3, 4, 5, 6], pa.int64()),
        "purpose": ["train", "train", "calibration", "train", "validation", "evaluation"],
        "text": ["Open the door", "a", "DOOR", "%", "d.or", None],
        "reward_parts.accuracy": [1.0, None, 0.0, None, None, None],
    }
)


def steps(*words: str) -> list[int]:
    expression = parse_where(words).expression
    kept = ROWS if expression is None else ROWS.filter(expression)
    return kept["step"].to_pylist()


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ([], [1, 2, 3, 4, 5, 6]),
        (["label=undo"], [1]),
        (["label==undo"], [1]),
        (["label = undo "], [1]),
        (["label=undo|redo"], [1, 2]),
        (["label=null"], [6]),
        (['label="null"'], [3]),
        (['label="a|b"'], [4]),
        (['label="a|b"|undo'], [1, 4]),
        (['label="say \\"no\\""'], [5]),
        (["label=null|redo"], [2, 6]),
        (["label!=undo"], [2, 3, 4, 5, 6]),  # a row without a label is not of this label
        (["label!=undo|null"], [2, 3, 4, 5]),
        (["reward>=1"], [2, 3]),
        (["reward<1e0"], [1, 5, 6]),
        (["reward>-1", "reward<1"], [1, 6]),
        (["reward=null"], [4]),
        (["reward!=null", "step>4"], [5, 6]),
        (["reward=0.5|-1"], [1, 5]),
        (["reward<inf"], [1, 2, 3, 5, 6]),
        (["step<=2"], [1, 2]),
        (["purpose=calibration|validation"], [3, 5]),
        (["text~door"], [1, 3]),
        (["text~%"], [4]),
        (["text~."], [5]),
        (["reward_parts.accuracy>=1"], [1]),
        (["reward_parts.accuracy=null"], [2, 4, 5, 6]),
    ],
)
def test_the_rows_that_a_filter_keeps(words: list[str], kept: list[int]):
    assert steps(*words) == kept


@given(st.text(min_size=1))
def test_any_text_in_quotes_is_found_as_it_is(text: str):
    rows = pa.table({"label": [text, text + "x"]})
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    expression = parse_where([f'label="{quoted}"']).expression
    assert rows.filter(expression)["label"].to_pylist() == [text]


@given(st.floats(allow_nan=False), st.sampled_from(["<", "<=", ">", ">=", "=", "!="]))
def test_a_number_compares_as_in_python(number: float, operator: str):
    values = [number, 0.0, 1.5]
    rows = pa.table({"reward": values})
    kept = rows.filter(parse_where([f"reward{operator}{number!r}"]).expression)["reward"]
    compare = {"=": "__eq__", "!=": "__ne__", "<": "__lt__", "<=": "__le__"} | {
        ">": "__gt__",
        ">=": "__ge__",
    }
    assert kept.to_pylist() == [v for v in values if getattr(v, compare[operator])(number)]


def test_a_filter_knows_the_columns_that_it_reads():
    assert parse_where(["label=a", "num_tokens>3"]).columns == {"label", "num_tokens"}


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("labl=undo", "did you mean 'label'?"),
        ("Label=undo", "did you mean 'label'?"),
        ("token=3", "did you mean 'num_tokens'?"),
        ("undo", "is no filter; give COLUMN followed by"),
        ("", "is no filter"),
        ("=undo", "is no filter"),
        ("label=", 'or "" for empty text'),
        ("label>undo", "'label' is text; compare it by =, != or ~"),
        ("reward~1", "'reward' is a number"),
        ("reward>=high", "'reward' is a number, got 'high'"),
        ("reward=nan", "'reward' is never nan"),
        ("step=1.5", "'step' is a whole number, got '1.5'"),
        ("step>=99999999999999999999", "'step' is never 9999"),
        ("attempt=2147483648", "'attempt' is never 2147483648"),
        ("purpose=calibratoin", "did you mean 'calibration'?"),
        ("split=validation", "no split is 'validation'; there are: train, val"),
        ("token_ids=3", "no filter compares 'token_ids', a list<"),
        ("reward_parts=1", "give one of its parts, as in reward_parts.accuracy>=1"),
        ("label.x=1", "'label' has no parts; give label=1"),
    ],
)
def test_a_wrong_word_is_refused_with_advice(word: str, advice: str):
    with pytest.raises(ConfigError) as refused:
        parse_where([word])
    assert advice in str(refused.value)
