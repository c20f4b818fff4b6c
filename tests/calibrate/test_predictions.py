from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.predictions import (
    Prediction,
    from_probabilities,
    from_votes,
    read_predictions,
    write_predictions,
)
from wire.errors import DataError


def make_prediction(**values: Any) -> Prediction:
    usual: dict[str, Any] = {
        "sample_id": "a",
        "label": "normal",
        "predicted": "normal",
        "confidence": 0.75,
        "probabilities": (0.25, 0.75),
        "trace": "<think>",
    }
    return Prediction(**usual | values)


def test_predictions_survive_the_file(tmp_path: Path) -> None:
    rows = [
        make_prediction(),
        make_prediction(
            sample_id="b", predicted=None, confidence=0.0, probabilities=None, trace=None
        ),
        make_prediction(sample_id="c", confidence=1 / 3, probabilities=(2 / 3, 1 / 3)),
    ]
    path = tmp_path / "new" / "predictions.parquet"
    write_predictions(path, rows)
    assert read_predictions(path) == rows
    assert [p.name for p in path.parent.iterdir()] == ["predictions.parquet"]


def test_counts_of_named_events_survive_and_files_from_before_them_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write_predictions(path, [make_prediction(num_named=3, num_supported=2), make_prediction()])
    assert [p.num_supported for p in read_predictions(path)] == [2, None]
    older = pq.read_table(path).drop_columns(["num_named", "num_supported"])
    pq.write_table(older.replace_schema_metadata(None), path)
    assert read_predictions(path) == [make_prediction(), make_prediction()]


def test_an_empty_list_survives_too(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.parquet", [])
    assert read_predictions(tmp_path / "p.parquet") == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    text, table = tmp_path / "text", tmp_path / "table"
    text.write_text("no parquet")
    pq.write_table(pa.table({"x": [1]}), table)
    for path in (text, table, tmp_path / "missing"):
        with pytest.raises(DataError, match=path.name):
            read_predictions(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"",
        lambda whole: whole.replace(b"sample_id", b"\xabample_id"),  # a name that is not UTF-8
        lambda whole: whole.replace(b"sample_id", b"sample_ie"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "p.parquet"
    write_predictions(path, [make_prediction()] * 50)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"p\.parquet"):
        read_predictions(path)


@pytest.mark.parametrize(
    "values",
    [
        {"confidence": 1.5},
        {"confidence": float("nan")},
        {"predicted": None},
        {"probabilities": (0.5, 0.6)},
        {"probabilities": (1.5, -0.5)},
        {"probabilities": (float("nan"), 1.0)},
    ],
)
def test_what_cannot_be_a_prediction_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^a: "):
        make_prediction(**values)


def test_the_most_probable_label_is_predicted() -> None:
    rows = from_probabilities(
        ["a", "b"], ["y", "x"], [[0.2, 0.8], [0.5, 0.5]], ("x", "y"), ["t", None]
    )
    assert [(p.predicted, p.confidence, p.trace) for p in rows] == [
        ("y", 0.8, "t"),
        ("x", 0.5, None),
    ]


def test_probabilities_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="one column for each of 2 labels"):
        from_probabilities(["a"], ["x"], [[0.2, 0.3, 0.5]], ("x", "y"))


@pytest.mark.parametrize(
    ("answers", "predicted", "probabilities"),
    [
        (["b", "a", "b", None], "b", (1 / 3, 2 / 3, 0)),
        (["c", "b", None], "b", (0, 0.5, 0.5)),
        ([None, None], None, None),
        ([], None, None),
    ],
    ids=["most frequent", "tie: the first by name", "none parsed", "no trace"],
)
def test_a_vote(
    answers: list[str | None], predicted: str | None, probabilities: tuple[float, ...] | None
) -> None:
    found = from_votes("x", "a", answers, ("a", "b", "c"))
    assert found.predicted == predicted
    assert found.probabilities == (probabilities and pytest.approx(probabilities))
    assert found.confidence == (max(probabilities) if probabilities else 0.0)


@given(answers=st.lists(st.sampled_from(["a", "b", "c", None])), seed=st.randoms())
def test_the_order_of_votes_changes_nothing(answers: list[str | None], seed: Any) -> None:
    other = list(answers)
    seed.shuffle(other)
    names = ("a", "b", "c")
    assert from_votes("x", "a", answers, names) == from_votes("x", "a", other, names)
