import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wire.token_arrays import Logprobs, TokenIds

int32 = st.integers(-(2**31), 2**31 - 1)


@given(numbers=st.lists(int32), other=st.lists(int32), start=st.integers(-9, 9))
def test_token_ids_are_a_sequence_like_a_tuple(numbers: list[int], other: list[int], start: int):
    ids, plain = TokenIds(numbers), tuple(numbers)
    assert ids == plain
    assert ids == TokenIds(plain)
    assert hash(ids) == hash(plain)
    assert (ids == TokenIds(other)) is (numbers == other)
    assert (len(ids), list(ids), bool(ids)) == (len(plain), numbers, bool(plain))
    assert ids[start:] == plain[start:]
    assert ids[::-2] == plain[::-2]
    assert type(ids[:start]) is TokenIds
    assert ids + other == plain + tuple(other)
    assert (*other, *ids) == (*other, *plain)
    for number in numbers[:3]:
        assert number in ids
        assert ids.index(number) == plain.index(number)


@given(numbers=st.lists(st.floats(width=32, allow_nan=False)))
def test_float32_logprobs_come_back_to_the_last_bit(numbers: list[float]):
    logprobs = Logprobs(numbers)
    assert list(logprobs) == numbers
    assert logprobs == tuple(numbers)
    again = pickle.loads(pickle.dumps(logprobs))
    assert again == logprobs
    assert again.tobytes() == logprobs.tobytes()


def test_numbers_are_pythons_and_indexing_is_checked():
    ids = TokenIds((7, 8))
    assert type(ids[-1]) is int
    assert {type(value) for value in Logprobs((1, 2))} == {float}
    with pytest.raises(IndexError):
        ids[2]
    with pytest.raises(TypeError):
        ids[0] = 1  # type: ignore[index]
    assert -0.0 in Logprobs((0.0,))
    assert Logprobs((0.0,)) == Logprobs((-0.0,))
    assert TokenIds((1,)) != Logprobs((1.0,))
    assert ids != "78"


def test_numpy_and_torch_read_them_and_make_them():
    ids, logprobs = TokenIds(range(5)), Logprobs((-0.5, -0.25))
    array = np.asarray(ids)
    assert array.dtype == np.int32
    assert not array.flags.writeable
    assert np.shares_memory(array, np.asarray(ids))  # read without a copy
    assert np.asarray(ids, np.int64).dtype == np.int64
    assert np.array(logprobs).flags.writeable
    assert torch.tensor(logprobs).tolist() == [-0.5, -0.25]
    assert TokenIds(np.arange(5)) == ids
    assert TokenIds(torch.arange(5)) == ids
    assert Logprobs(torch.tensor([-0.5, -0.25])) == logprobs


def test_a_token_id_beyond_32_bits_is_refused_by_name():
    with pytest.raises(ValueError, match=r"TokenIds: .*32 bits"):
        TokenIds((1, 2**31))
    with pytest.raises(TypeError):
        TokenIds((1.5,))  # type: ignore[arg-type]


def test_they_take_four_bytes_a_number_and_a_few_words():
    ids = TokenIds(random.sample(range(150_000), 5_000))
    assert len(pickle.dumps(ids)) < 4 * 5_000 + 200


def test_what_is_shown_of_a_long_one_is_short():
    assert repr(TokenIds((1, 2))) == "TokenIds(1, 2)"
    assert repr(TokenIds(range(5_000))) == "TokenIds(0, 1, 2, 3, 4, 5, 6, 7, ... 5000 in all)"
