import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from learner.config import ObjectStoreConfig
from learner.weight_transfer import PolicySource, connect
from wire.errors import DeadlineExceeded, WeightUpdateError
from wire.shared_memory import SharedReader
from wire.weights import unpack

TENSORS = {
    "a": torch.ones(4),
    "b": torch.full((2, 2), 2.0),
    "c": torch.tensor(3.0),
    "d": torch.arange(4.0),
    "e": torch.zeros(2),
}
BUCKET_BYTES = 20  # a | b, c | d | e


class Weights:
    """Five weights; notes each gather. ``empty`` is one that never comes together; at ``broken``
    the other rank is gone."""

    def __init__(self, empty: str = "", broken: str = "") -> None:
        self.events: list[str] = []
        self._empty, self._broken = empty, broken

    def weight_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(name, tuple(tensor.shape)) for name, tensor in TENSORS.items()]

    def full_parameters(self, bucket_bytes: int) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in TENSORS.items():
            if name == self._broken:
                raise RuntimeError("Connection closed by peer")
            self.events.append(f"gather {name}")
            yield name, torch.empty(0) if name == self._empty else tensor

    def can_settle(self, dtype: torch.dtype) -> bool:
        return False

    def settle(self, places: Mapping[str, torch.Tensor]) -> None:
        raise AssertionError("these stay where they are")


class SettlingWeights(Weights):
    """A model's own, which move."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors = {name: tensor.clone() for name, tensor in TENSORS.items()}

    def full_parameters(self, bucket_bytes: int) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.tensors.items()

    def can_settle(self, dtype: torch.dtype) -> bool:
        return dtype == torch.float32

    def settle(self, places: Mapping[str, torch.Tensor]) -> None:
        self.events += [f"settle {name}" for name in places]
        self.tensors |= places


class Client:
    """Reads what a rollout worker would be shown, from the memory in which it lies."""

    def __init__(self, weights: Weights, pause_s: float = 0.0) -> None:
        self.events, self.threads = weights.events, set[int]()
        self.loaded: dict[str, Any] = {}
        self._reader, self._pause_s = SharedReader(), pause_s

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        raise AssertionError("there is no rendezvous")

    def start_weight_update(self) -> None:
        self._note("start")

    def update_weights(self, update: dict[str, Any]) -> None:
        self._note(f"load {update['header']['index']} of {update['num_buckets']}")
        time.sleep(self._pause_s)
        data = self._reader.view(update["path"])
        for name, tensor in unpack(update["header"], data):
            self.loaded[name] = tensor.tolist()
        self._note("loaded")

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._note("finish")

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())

    @property
    def told(self) -> list[str]:
        return [event for event in self.events if not event.startswith("gather")]


def sender(weights: Weights, client: Client, rank: int = 0, timeout_s: float = 30.0) -> Any:
    source = PolicySource(lambda: weights, torch.float32, BUCKET_BYTES)
    config = ObjectStoreConfig(bucket_mb=BUCKET_BYTES / 2**20)
    return connect(config, client, source, rank, "127.0.0.1", timeout_s)


def gathered(weights: Weights) -> list[str]:
    return [event for event in weights.events if event.startswith("gather")]


EVERY = [f"gather {name}" for name in TENSORS]
VALUES = {name: tensor.tolist() for name, tensor in TENSORS.items()}
WHOLE = ["start", *(x for i in range(4) for x in (f"load {i} of 4", "loaded")), "finish"]


@pytest.mark.parametrize("pause_s", [0.0, 0.1])
def test_an_update_is_opened_sent_whole_and_closed_however_slow_the_engines(pause_s: float) -> None:
    weights = Weights()
    client = Client(weights, pause_s)
    made = sender(weights, client)
    for _ in range(2):
        client.loaded.clear()
        weights.events.clear()
        made.send_weights()
        assert client.told == WHOLE
        assert client.loaded == VALUES
        assert gathered(weights) == EVERY


def test_two_buckets_are_gathered_while_one_is_loaded_and_no_more() -> None:
    """One is packed beside it, one waits for its memory."""

    class Slow(Client):
        def update_weights(self, update: dict[str, Any]) -> None:
            if update["header"]["index"] == 0:
                until = time.monotonic() + 20
                while "gather d" not in self.events and time.monotonic() < until:
                    time.sleep(0.01)
                time.sleep(0.1)
                seen.extend(gathered(weights))
            super().update_weights(update)

    seen, weights = list[str](), Weights()
    client = Slow(weights)
    sender(weights, client).send_weights()
    assert seen == EVERY[:4]
    assert threading.get_ident() not in client.threads
    assert client.loaded == VALUES


def test_only_rank_0_speaks_to_the_client_and_every_rank_gathers_the_same() -> None:
    weights = Weights()
    client = Client(weights)
    sender(weights, client, rank=1).send_weights()
    assert weights.events == EVERY


class Broken(Client):
    """Fails at its second chunk."""

    def update_weights(self, update: dict[str, Any]) -> None:
        if update["header"]["index"] == 1:
            raise ConnectionError("gone")
        super().update_weights(update)


def test_a_client_that_fails_ends_the_update_after_the_last_gather() -> None:
    """The other ranks know nothing of it: one gather too few, and they wait for ever."""
    weights = Weights()
    client = Broken(weights)
    with pytest.raises(ConnectionError, match="gone"):
        sender(weights, client).send_weights()
    assert client.told == ["start", "load 0 of 4", "loaded"]
    assert gathered(weights) == EVERY


def test_a_client_that_does_not_even_start_is_sent_nothing() -> None:
    class Absent(Client):
        def start_weight_update(self) -> None:
            raise ConnectionError("gone")

    weights = Weights()
    client = Absent(weights)
    with pytest.raises(ConnectionError):
        sender(weights, client).send_weights()
    assert client.told == []
    assert gathered(weights) == EVERY


def test_the_update_after_a_failed_one_is_whole() -> None:
    weights = Weights()
    client = Broken(weights)
    made = sender(weights, client)
    with pytest.raises(ConnectionError):
        made.send_weights()
    made.client = client = Client(weights)
    weights.events.clear()
    made.send_weights()
    assert client.told == WHOLE
    assert client.loaded == VALUES


def test_engines_that_never_answer_are_named_within_the_deadline() -> None:
    class Hanging(Client):
        def update_weights(self, update: dict[str, Any]) -> None:
            freed.wait(20)

    freed, weights = threading.Event(), Weights()
    start = time.monotonic()
    with pytest.raises(
        DeadlineExceeded, match=r"waited 1 s for the engines to take weight bucket 1 of 4"
    ):
        sender(weights, Hanging(weights), timeout_s=1.0).send_weights()
    assert time.monotonic() - start < 5
    assert gathered(weights) == EVERY
    freed.set()


def test_a_gather_that_fails_ends_the_update_unfinished() -> None:
    weights = Weights(broken="d")
    client = Client(weights)
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        sender(weights, client).send_weights()
    time.sleep(0.2)
    assert "finish" not in client.told
    assert "load 2 of 4" not in client.told


def test_a_weight_that_was_not_gathered_is_not_sent() -> None:
    weights = Weights(empty="c")
    client = Client(weights)
    with pytest.raises(WeightUpdateError, match="c is empty: it was not gathered"):
        sender(weights, client).send_weights()
    assert gathered(weights) == EVERY
    assert "finish" not in client.told


def test_where_the_time_went_is_told() -> None:
    weights = Weights()
    made = sender(weights, Client(weights, pause_s=0.1))
    made.send_weights()
    assert made.seconds["send"] >= 0.4
    assert 0.3 <= made.seconds["wait"] <= made.seconds["send"] + 0.1
    assert set(made.seconds) == {"gather", "pack", "wait", "send"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_metadata_describe_what_is_sent_in_the_precision_of_the_wire(
    dtype: torch.dtype,
) -> None:
    weights = Weights()
    source = PolicySource(lambda: weights, dtype, 100)
    described = [(meta.name, meta.dtype, meta.shape) for meta in source.metadata()]
    assert weights.events == [], "shapes are known without gathering"
    assert described == [(name, t.dtype, tuple(t.shape)) for name, t in source]


def test_weights_that_can_settle_are_packed_once_and_trained_where_engines_read_them() -> None:
    weights = SettlingWeights()
    client = Client(weights)
    made = sender(weights, client)
    made.send_weights()
    assert client.loaded == {name: tensor.tolist() for name, tensor in TENSORS.items()}
    assert [e for e in weights.events if e.startswith("settle")] == [f"settle {n}" for n in TENSORS]
    places = {name: tensor.data_ptr() for name, tensor in weights.tensors.items()}
    for tensor in weights.tensors.values():
        tensor += 1  # an update of the optimiser's
    weights.events.clear()
    made.send_weights()
    assert client.loaded == {name: (tensor + 1).tolist() for name, tensor in TENSORS.items()}
    assert not [event for event in weights.events if event.startswith("settle")]
    assert {name: tensor.data_ptr() for name, tensor in weights.tensors.items()} == places


def test_the_next_stages_weights_do_not_settle_on_the_last_ones() -> None:
    """A reference model may be the last stage's."""
    stages = [SettlingWeights(), SettlingWeights()]
    stages[1].tensors = {name: tensor + 5 for name, tensor in TENSORS.items()}
    now, client = stages[0], Client(stages[0])
    source = PolicySource(lambda: now, torch.float32, BUCKET_BYTES)
    config = ObjectStoreConfig(bucket_mb=BUCKET_BYTES / 2**20)
    made = connect(config, client, source, 0, "127.0.0.1", 30.0)
    made.send_weights()
    now = stages[1]
    made.send_weights()
    assert client.loaded == {name: (tensor + 5).tolist() for name, tensor in TENSORS.items()}
    assert all(torch.equal(stages[0].tensors[name], TENSORS[name]) for name in TENSORS)


def test_weights_in_another_precision_than_the_engines_do_not_settle() -> None:
    weights = SettlingWeights()
    client = Client(weights)
    source = PolicySource(lambda: weights, torch.bfloat16, BUCKET_BYTES)
    config = ObjectStoreConfig(bucket_mb=BUCKET_BYTES / 2**20)
    connect(config, client, source, 0, "127.0.0.1", 30.0).send_weights()
    assert set(client.loaded) == set(TENSORS)
    assert all(tensor.dtype == torch.float32 for tensor in weights.tensors.values())
