from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from wire.errors import WeightUpdateError
from wire.shared_memory import SharedBuffer
from wire.weight_digest import DigestRecorder
from wire.weights import Bucket, fill, plan

pytestmark = pytest.mark.slow  # imports vLLM


class Model(torch.nn.Module):
    """Two parameters, loaded as vLLM's models load theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros(4))
        self.b = torch.nn.Parameter(torch.zeros(2))

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        loaded = set()
        for name, tensor in weights:
            self.get_parameter(name).data.copy_(tensor)
            self.num_threads = torch.get_num_threads()
            loaded.add(name)
        return loaded


@pytest.fixture
def transfer() -> Any:
    from rollout.vllm_extension import ObjectStoreTransfer

    config = SimpleNamespace(parallel_config=None, model_config=None)
    made = ObjectStoreTransfer(None, config, torch.device("cpu"), Model())
    made.start_weight_update()
    return made


@pytest.fixture
def buckets() -> list[Bucket]:
    tensors = {"a": torch.ones(4), "b": torch.full((2,), 2.0)}
    layouts = plan([(n, t.dtype, tuple(t.shape)) for n, t in tensors.items()], bucket_bytes=1)
    return [
        fill(layout, [pair], np.zeros(64, np.uint8))
        for layout, pair in zip(layouts, tensors.items(), strict=True)
    ]


MEMORY = SharedBuffer(64)


def send(transfer: Any, bucket: Bucket, num_buckets: int = 2) -> None:
    MEMORY.data[: len(bucket.data)] = bucket.data
    update = {"header": bucket.header(), "path": MEMORY.path, "num_buckets": num_buckets}
    transfer.update_weights(update)


def test_a_whole_update_is_loaded(transfer: Any, buckets: list[Bucket]) -> None:
    for bucket in buckets:
        send(transfer, bucket)
    transfer.finish_weight_update()
    assert [p.tolist() for p in transfer.model.parameters()] == [[1, 1, 1, 1], [2, 2]]


def test_an_update_without_any_bucket_is_not_whole(transfer: Any) -> None:
    with pytest.raises(WeightUpdateError, match="0 of 0 buckets"):
        transfer.finish_weight_update()


@pytest.mark.parametrize("sent", [0, 1])
def test_a_missing_bucket_is_named(transfer: Any, buckets: list[Bucket], sent: int) -> None:
    send(transfer, buckets[sent])
    with pytest.raises(WeightUpdateError, match=rf"1 of 2 buckets, missing \[{1 - sent}\]"):
        transfer.finish_weight_update()


def test_a_parameter_that_nobody_sent_is_named(transfer: Any, buckets: list[Bucket]) -> None:
    send(transfer, buckets[0], num_buckets=1)
    with pytest.raises(WeightUpdateError, match="left 1 parameters as they were, such as b"):
        transfer.finish_weight_update()


def test_buckets_of_an_update_that_broke_off_do_not_count(
    transfer: Any, buckets: list[Bucket]
) -> None:
    send(transfer, buckets[0])
    transfer.start_weight_update()
    send(transfer, buckets[1])
    with pytest.raises(WeightUpdateError, match="missing \\[0\\]"):
        transfer.finish_weight_update()


def test_memory_of_a_learner_that_ended_is_an_error_that_says_so(
    transfer: Any, buckets: list[Bucket]
) -> None:
    buffer = SharedBuffer(16)
    update = {"header": buckets[0].header(), "path": buffer.path, "num_buckets": 2}
    del buffer
    with pytest.raises(WeightUpdateError, match=r"cannot be read .*: its process ended"):
        transfer.update_weights(update)


def test_digests_are_of_what_the_model_was_given_and_of_what_it_keeps() -> None:
    from rollout.vllm_extension import Extension

    model, worker = Model(), Extension()
    worker.model_runner = SimpleNamespace(get_model=lambda: model)
    worker._weight_update_active, worker.start_weight_update = False, lambda: None
    sent = {"a": torch.ones(4), "b": torch.full((2,), 2.0)}
    seen = []
    for tensors in (sent, sent, {**sent, "b": torch.zeros(2)}, {"a": torch.ones(4)}):
        worker.begin_weight_update(True)
        assert model.load_weights(iter(tensors.items())) == set(tensors)
        loaded, resident = worker.weight_digests()
        recorder = DigestRecorder()
        assert dict(recorder.of(tensors.items())) == tensors
        assert loaded == recorder.digests
        seen.append(resident)
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_a_draw_that_is_taken_back_is_drawn_again() -> None:
    from rollout.vllm_extension import _Rewindable

    def draw() -> list[float]:
        return torch.empty(5).exponential_(generator=generator).tolist()

    generator = _Rewindable()
    generator.manual_seed(3)
    first = draw()
    generator.mark()
    second = draw()
    generator.set_offset(generator.get_offset() - 4)
    assert draw() == second != first


def test_weights_are_loaded_by_one_thread_although_vllm_refuses_to_change_their_number(
    transfer: Any, buckets: list[Bucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # as vLLM's CPU worker does
    try:
        send(transfer, buckets[0])
        assert (transfer.model.num_threads, torch.get_num_threads()) == (1, 2)
    finally:
        torch._C.set_num_threads(before)
