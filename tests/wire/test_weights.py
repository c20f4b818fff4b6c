import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import WeightUpdateError
from wire.weights import Bucket, Entry, digest, fill, plan, split_by_size, unpack

Tensors = list[tuple[str, torch.Tensor]]


def make_tensors() -> Tensors:
    return [
        ("matrix", torch.arange(6, dtype=torch.float32).reshape(2, 3)),
        ("half", torch.tensor([1.5, -2.25, float("inf")], dtype=torch.bfloat16)),
        ("scalar", torch.tensor(3.5)),
        ("column", torch.arange(6, dtype=torch.float64).reshape(2, 3)[:, 1]),
        ("counts", torch.tensor([[1], [2]])),
    ]


def pack(tensors: Tensors, bucket_bytes: int, spare: int = 0) -> list[Bucket]:
    """Each bucket in memory of its own, which was used before."""
    buckets, left = [], iter(tensors)
    for layout in plan([(n, t.dtype, tuple(t.shape)) for n, t in tensors], bucket_bytes):
        data = np.full(layout.num_bytes + spare, 99, np.uint8)
        part = [next(left) for _ in layout.entries]
        buckets.append(fill(layout, part, data))
    return buckets


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
def test_parts_are_as_large_as_the_limit_allows(given_sizes: list[int], limit: int) -> None:
    parts = list(split_by_size(given_sizes, lambda size: size, limit))
    assert [size for part in parts for size in part] == given_sizes
    assert all(len(part) == 1 or sum(part) <= limit for part in parts)
    assert all(sum(a) + b[0] > limit for a, b in itertools.pairwise(parts))


def test_a_tensor_larger_than_a_bucket_gets_one_of_its_own() -> None:
    buckets = list(pack(byte_tensors([10, 500, 10]), 100))
    assert [[entry.num_bytes for entry in bucket.layout.entries] for bucket in buckets] == [
        [10],
        [500],
        [10],
    ]


def test_every_part_of_a_large_tensor_arrives_and_other_bytes_in_a_page_are_noticed() -> None:
    sent = [("a", torch.arange(300_000)), ("b", torch.ones(3)), ("c", torch.arange(99_999))]
    (bucket,) = pack(sent, 1 << 30)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(sent, received([bucket]), strict=True))
    for place in (0, 1 << 18, (1 << 18) + 63, bucket.layout.num_bytes - 1):
        bucket.data[place] ^= 1
        with pytest.raises(WeightUpdateError, match="is not the one that was sent"):
            received([bucket])
        bucket.data[place] ^= 1


@given(st.data())
def test_a_digest_tells_any_change_of_what_went_over_a_network(data: st.DataObject) -> None:
    sent = np.arange(20_000, dtype=np.int64).view(np.uint8)
    found = sent.copy()
    found[data.draw(st.integers(0, len(found) - 1))] ^= data.draw(st.integers(1, 255))
    assert digest(found) != digest(sent) == digest(sent.copy())


def test_no_tensors_make_no_bucket() -> None:
    assert list(pack([], 100)) == []


def test_a_tensor_that_was_not_gathered_is_refused() -> None:
    with pytest.raises(WeightUpdateError, match="q is empty: it was not gathered"):
        plan([("p", torch.float32, (2,)), ("q", torch.float32, (0,))], 100)
    (layout,) = plan([("q", torch.float32, (4,))], 100)
    with pytest.raises(WeightUpdateError, match="q is empty: it was not gathered"):
        fill(layout, [("q", torch.empty(0))], np.zeros(16, np.uint8))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("a", torch.ones(4))], "holds .*'b'.* given were"),
        ([("b", torch.ones(2)), ("a", torch.ones(4))], "given were"),
        ([("a", torch.ones(2, 2)), ("b", torch.ones(2))], r"\(2, 2\), described as \(4,\)"),
    ],
)
def test_tensors_other_than_those_described_are_refused(given: Tensors, message: str) -> None:
    (layout,) = plan([("a", torch.float32, (4,)), ("b", torch.float32, (2,))], 100)
    with pytest.raises(WeightUpdateError, match=message):
        fill(layout, given, np.zeros(100, np.uint8))


def test_tensors_that_are_in_place_already_are_checked_and_not_copied() -> None:
    described = [("a", torch.float32, (5,)), ("b", torch.float32, (3,))]
    (layout,) = plan(described, 1000)
    memory = np.zeros(layout.num_bytes, np.uint8)
    places = layout.views(memory)
    assert all(place.data_ptr() % 64 == memory.ctypes.data % 64 for place in places.values())
    places["a"].fill_(2.0)
    assert layout.lies_in(memory, places.items())
    bucket = fill(layout, places.items(), memory)
    assert dict(unpack(bucket.header(), memory))["a"].tolist() == [2.0] * 5
    places["a"][4] = 3.0
    with pytest.raises(WeightUpdateError, match="is not the one that was sent"):
        list(unpack(bucket.header(), memory))


def test_tensors_elsewhere_or_in_part_are_not_in_place() -> None:
    (layout,) = plan([("a", torch.float32, (5,)), ("b", torch.float32, (3,))], 1000)
    memory = np.zeros(layout.num_bytes, np.uint8)
    places = layout.views(memory)
    assert not layout.lies_in(memory, [("a", places["a"]), ("b", torch.zeros(3))])
    assert not layout.lies_in(memory, [("a", places["a"])])
    assert not layout.lies_in(memory[:-1], places.items())


def test_another_precision_is_converted_on_the_way() -> None:
    (layout,) = plan([("a", torch.bfloat16, (2,))], 100)
    bucket = fill(layout, [("a", torch.tensor([1.0, 3.14159]))], np.zeros(100, np.uint8))
    ((_, tensor),) = unpack(bucket.header(), bucket.data)
    assert tensor.tolist() == [1.0, 3.140625]


def test_memory_larger_than_a_bucket_serves_too() -> None:
    (bucket,) = pack(make_tensors(), 10_000, spare=50)
    whole = np.concatenate([bucket.data, np.full(50, 5, np.uint8)])
    assert [name for name, _ in unpack(bucket.header(), whole)] == [n for n, _ in make_tensors()]


def test_the_next_bucket_in_the_same_memory_is_not_taken_for_the_last() -> None:
    """A reader that comes after its deadline."""
    memory = np.zeros(16, np.uint8)
    (layout,) = plan([("a", torch.float32, (4,))], 100)
    late = fill(layout, [("a", torch.ones(4))], memory).header()
    fill(layout, [("a", torch.zeros(4))], memory)
    with pytest.raises(WeightUpdateError, match="bucket 0 is not the one that was sent"):
        list(unpack(late, memory))


@given(st.data())
def test_a_damaged_byte_is_refused_before_any_tensor_comes_out(data: st.DataObject) -> None:
    (bucket,) = pack(make_tensors(), 10_000)
    damaged = bucket.data.copy()
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WeightUpdateError, match="bucket 0 is not the one that was sent"):
        next(unpack(bucket.header(), damaged))


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "other"), ("dtype", "int32"), ("shape", (3, 2)), ("offset", 16), ("num_bytes", 20)],
)
def test_a_changed_table_is_refused(field: str, value: object) -> None:
    (bucket,) = pack(make_tensors(), 10_000)
    header = bucket.header()
    header["entries"][0] = Entry(*header["entries"][0])._replace(**{field: value})
    with pytest.raises(WeightUpdateError, match="is not the one that was sent"):
        list(unpack(header, bucket.data))


def test_a_bucket_cut_short_is_refused() -> None:
    (bucket,) = pack(make_tensors(), 10_000)
    with pytest.raises(WeightUpdateError, match="is not the one that was sent"):
        list(unpack(bucket.header(), bucket.data[:-16]))


def test_tensors_are_views_of_the_bytes_that_arrived() -> None:
    (bucket,) = pack([("a", torch.zeros(4))], 100)
    ((_, tensor),) = unpack(bucket.header(), bucket.data)
    bucket.data[:16] = np.frombuffer(np.float32([7, 7, 7, 7]).tobytes(), np.uint8)
    assert tensor.tolist() == [7, 7, 7, 7]
