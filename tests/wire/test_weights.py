import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import WeightUpdateError
from wire.weights import Bucket, num_buckets, pack, unpack

Tensors = list[tuple[str, torch.Tensor]]


def make_tensors() -> Tensors:
    return [
        ("matrix", torch.arange(6, dtype=torch.float32).reshape(2, 3)),
        ("half", torch.tensor([1.5, -2.25, float("inf")], dtype=torch.bfloat16)),
        ("scalar", torch.tensor(3.5)),
        ("column", torch.arange(6, dtype=torch.float64).reshape(2, 3)[:, 1]),
        ("counts", torch.tensor([[1], [2]])),
    ]


def received(buckets: list[Bucket]) -> Tensors:
    return [pair for bucket in buckets for pair in unpack(bucket.header(), bucket.data)]


def byte_tensors(sizes: list[int]) -> Tensors:
    return [(f"t{i}", torch.full((size,), i % 256).byte()) for i, size in enumerate(sizes)]


sizes = st.lists(st.integers(1, 60), max_size=30)


@pytest.mark.parametrize("bucket_bytes", [1, 20, 1000])
def test_tensors_of_any_kind_come_back_as_they_were(bucket_bytes: int) -> None:
    sent = make_tensors()
    found = received(list(pack(sent, bucket_bytes)))
    assert [name for name, _ in found] == [name for name, _ in sent]
    for (_, ours), (_, theirs) in zip(sent, found, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert torch.equal(ours, theirs)


@given(sizes, st.integers(1, 100))
def test_every_byte_comes_back_in_order(given_sizes: list[int], bucket_bytes: int) -> None:
    sent = byte_tensors(given_sizes)
    found = received(list(pack(sent, bucket_bytes)))
    assert [(n, t.tolist()) for n, t in found] == [(n, t.tolist()) for n, t in sent]


@given(sizes, st.integers(1, 100))
def test_the_number_of_buckets_is_known_before_packing(
    given_sizes: list[int], bucket_bytes: int
) -> None:
    buckets = list(pack(byte_tensors(given_sizes), bucket_bytes))
    assert num_buckets(given_sizes, bucket_bytes) == len(buckets)
    assert [bucket.index for bucket in buckets] == list(range(len(buckets)))


def test_a_tensor_larger_than_a_bucket_gets_one_of_its_own() -> None:
    buckets = list(pack(byte_tensors([10, 500, 10]), 100))
    assert [[entry.num_bytes for entry in bucket.entries] for bucket in buckets] == [
        [10],
        [500],
        [10],
    ]


def test_no_tensors_make_no_bucket() -> None:
    assert list(pack([], 100)) == []


def test_a_tensor_that_was_not_gathered_is_refused() -> None:
    with pytest.raises(WeightUpdateError, match="q is empty: it was not gathered"):
        list(pack([("p", torch.ones(2)), ("q", torch.empty(0))], 100))


@given(st.data())
def test_a_damaged_byte_is_refused_before_any_tensor_comes_out(data: st.DataObject) -> None:
    (bucket,) = pack(make_tensors(), 10_000)
    damaged = bucket.data.copy()
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WeightUpdateError, match="bucket 0 arrived damaged"):
        next(unpack(bucket.header(), damaged))


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "other"), ("dtype", "int32"), ("shape", [3, 2]), ("offset", 16), ("num_bytes", 20)],
)
def test_a_changed_table_is_refused(field: str, value: object) -> None:
    (bucket,) = pack(make_tensors(), 10_000)
    header = copy.deepcopy(bucket.header())
    header["entries"][0][field] = value
    with pytest.raises(WeightUpdateError, match="damaged"):
        list(unpack(header, bucket.data))


def test_a_bucket_cut_short_is_refused() -> None:
    (bucket,) = pack(make_tensors(), 10_000)
    with pytest.raises(WeightUpdateError, match="damaged"):
        list(unpack(bucket.header(), bucket.data[:-16]))


def test_tensors_are_views_of_the_bytes_that_arrived() -> None:
    (bucket,) = pack([("a", torch.zeros(4))], 100)
    ((_, tensor),) = unpack(bucket.header(), bucket.data)
    bucket.data[:] = np.frombuffer(np.float32([7, 7, 7, 7]).tobytes(), np.uint8)
    assert tensor.tolist() == [7, 7, 7, 7]
