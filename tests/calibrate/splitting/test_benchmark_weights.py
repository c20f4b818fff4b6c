import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from calibrate.splitting.benchmark_weights import (
    BenchmarkWeights,
    ClipFeatures,
    read_weights,
    write_weights,
)
from wire.errors import DataError

RNG = np.random.default_rng(0)


def clip_features(count: int = 3, crops: int = 2, width: int = 4) -> ClipFeatures:
    values = RNG.normal(size=(count, crops, width)).astype(np.float16)
    return ClipFeatures(names=tuple(f"{i}.mp4" for i in range(count)), values=values)


def some_weights() -> BenchmarkWeights:
    return BenchmarkWeights(
        weight=RNG.normal(size=(2, 4)).astype(np.float32),
        bias=np.zeros(2, np.float32),
        val=clip_features(),
    )


def test_weights_are_read_as_they_were_written(tmp_path: Path):
    weights = replace(
        some_weights(),
        train=clip_features(5),
        vlm=clip_features(crops=1, width=7),
        labels=("push", "hold"),
    )
    write_weights(tmp_path / "w.safetensors", weights)
    again = read_weights(tmp_path / "w.safetensors")
    assert np.array_equal(again.weight, weights.weight)
    assert again.labels == ("push", "hold")
    for one, other in ((again.train, weights.train), (again.vlm, weights.vlm)):
        assert one is not None
        assert other is not None
        assert one.names == other.names
        assert np.array_equal(one.values, other.values)


def test_optional_parts_may_be_absent_and_one_row_per_clip_is_one_crop(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    tensors = {"weight": np.ones((2, 4)), "bias": np.ones(2), "features": np.ones((3, 4))}
    save_file(tensors, path, metadata={"clips": json.dumps(["a", "b", "c"])})
    weights = read_weights(path)
    assert weights.val.values.shape == (3, 1, 4)
    assert (weights.train, weights.vlm, weights.labels) == (None, None, None)


def test_rows_are_in_the_order_that_is_asked_for():
    features = clip_features()
    rows = features.rows(["2.mp4", "0.mp4"])
    assert rows.dtype == np.float32
    assert np.array_equal(rows, features.values[[2, 0]].astype(np.float32))


def test_clips_without_features_are_counted_and_named():
    with pytest.raises(DataError, match=r"1 of 2 clips have no features, such as 9\.mp4"):
        clip_features().rows(["0.mp4", "9.mp4"])


def test_features_that_are_not_finite_are_refused():
    features = ClipFeatures(names=("a",), values=np.full((1, 1, 2), np.nan))
    with pytest.raises(DataError, match="not all finite"):
        features.rows(["a"])


def test_a_clip_that_stands_twice_is_refused():
    with pytest.raises(DataError, match="name a clip twice"):
        ClipFeatures(names=("a", "a"), values=np.zeros((2, 1, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, "has no features; expected weight"),
        ({"bias": np.ones(3)}, r"weight \[2, 4\] and bias \[3\]"),
        ({"features": np.ones((3, 1, 5))}, "features of width 5, but the head reads 4"),
        ({"features": np.ones((2, 4))}, r"features: features \[2, 1, 4\] of 3 clips"),
        ({"weight": np.full((2, 4), np.inf)}, "all finite"),
    ],
)
def test_a_file_of_another_form_is_refused(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
):
    tensors = {"weight": np.ones((2, 4)), "bias": np.ones(2), "features": np.ones((3, 4)), **change}
    path = tmp_path / "w.safetensors"
    save_file(
        {key: values for key, values in tensors.items() if values is not None},
        path,
        metadata={"clips": json.dumps(["a", "b", "c"])},
    )
    with pytest.raises(DataError, match=message):
        read_weights(path)


def test_a_file_without_names_of_clips_is_refused(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_file({"weight": np.ones((2, 4)), "bias": np.ones(2), "features": np.ones((3, 4))}, path)
    with pytest.raises(DataError, match="no JSON list 'clips'"):
        read_weights(path)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path):
    (tmp_path / "w.pt").write_bytes(b"PK no tensors")
    with pytest.raises(DataError, match="is no safetensors file of weights"):
        read_weights(tmp_path / "w.pt")
    with pytest.raises(DataError, match="No such file"):
        read_weights(tmp_path / "none")
