from pathlib import Path

import numpy as np
import pytest

from calibrate.shift.features import TraceColumns, TraceFeatures, TraceLog, TraceReference
from wire.errors import DataError
from wire.labels import Label, LabelSet

LABELS = LabelSet(labels=(Label(name="undo", definition="x"), Label(name="varied", definition="y")))


def test_features_are_read_from_the_trace_as_it_was_written() -> None:
    trace = "<think>it goes back</think><answer>undo</answer>"
    features = TraceFeatures.of(trace, [-0.5, -1.0, 0.0], LABELS, confidence=0.75)
    assert features == TraceFeatures(
        num_tokens=3, mean_logprob=-0.5, parsed=True, answer="undo", confidence=0.75
    )
    without = TraceFeatures.of("<answer>undo</answer>", [-0.5], LABELS)
    assert (without.answer, without.parsed) == ("undo", False)
    nothing = TraceFeatures.of("it goes ba", [-0.5], LABELS)
    assert (nothing.answer, nothing.parsed, nothing.confidence) == (None, False, None)


def test_a_reference_is_read_as_it_was_written(draw, label_names, tmp_path: Path) -> None:
    traces = [
        *draw(0, 40),
        TraceFeatures(num_tokens=1, mean_logprob=None, parsed=False, answer=None, confidence=None),
    ]
    reference = TraceReference.of(traces, label_names)
    reference.save(tmp_path / "new")
    loaded = TraceReference.load(tmp_path / "new")
    assert loaded.label_names == label_names
    for name in ("num_tokens", "mean_logprob", "confidence", "parsed", "answer"):
        np.testing.assert_array_equal(getattr(loaded.traces, name), getattr(reference.traces, name))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "reference.json",
        "reference.safetensors",
    ]


def test_what_is_no_reference_is_refused(draw, label_names, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without a trace"):
        TraceReference.of([], label_names)
    with pytest.raises(DataError, match="answers 'undo'"):
        TraceColumns.of(draw(0, 50), ("relapse",))
    with pytest.raises(DataError, match="is no reference"):
        TraceReference.load(tmp_path)
    TraceReference.of(draw(0, 5), label_names).save(tmp_path)
    TraceColumns.of(draw(0, 4), label_names).write(tmp_path / "reference.safetensors")
    with pytest.raises(DataError, match="4 traces, expected 5"):
        TraceReference.load(tmp_path)
    (tmp_path / "reference.safetensors").write_bytes(b"0" * 20)
    with pytest.raises(DataError, match="holds no features"):
        TraceReference.load(tmp_path)
    (tmp_path / "reference.json").write_text('{"format": 9, "label_names": [], "num_traces": 0}')
    with pytest.raises(DataError, match="format 9, expected 1"):
        TraceReference.load(tmp_path)


def test_a_log_holds_what_was_added_and_gives_its_last(draw, label_names) -> None:
    rows = [TraceColumns.of(draw(seed, 3), label_names) for seed in range(4)]
    log = TraceLog(rows[0])
    for more in rows[1:]:
        log.extend(more)
    expected = rows[0]
    for more in rows[1:]:
        expected = expected.joined(more)
    assert len(log) == 12
    for last, columns in ((None, expected), (2, expected[10:]), (50, expected), (0, expected[:0])):
        for name in ("num_tokens", "mean_logprob", "confidence", "parsed", "answer"):
            values = getattr(log.columns(last), name)
            np.testing.assert_array_equal(values, getattr(columns, name))
            assert values.dtype == getattr(columns, name).dtype
