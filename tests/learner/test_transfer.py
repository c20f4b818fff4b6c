from collections.abc import Iterator
from typing import Any

import pytest
import torch

from learner.config import ObjectStoreConfig
from learner.transfer import PolicySource, connect
from wire.weights import unpack


class Parameters:
    """Three parameters, which count how often they were gone through."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self) -> Iterator[tuple[str, torch.Tensor]]:
        self.passes += 1
        yield from {
            "a": torch.ones(4),
            "b": torch.full((2, 2), 2.0),
            "c": torch.tensor(3.0),
        }.items()


class Client:
    """Keeps what a rollout worker would be told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.chunks: list[dict[str, Any]] = []

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.calls.append("init")

    def start_weight_update(self) -> None:
        self.calls.append("start")

    def update_weights(self, update: dict[str, Any]) -> None:
        self.calls.append("update")
        self.chunks.append(update)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.calls.append("finish")


def sender(parameters: Parameters, client: Client, rank: int = 0, bucket_bytes: int = 20) -> Any:
    source = PolicySource(parameters, torch.float32)
    config = ObjectStoreConfig(bucket_mb=bucket_bytes / 2**20)
    return connect(config, client, source, rank, "127.0.0.1", 1)


def test_an_update_is_opened_sent_whole_and_closed() -> None:
    client = Client()
    sender(Parameters(), client).send_weights()
    assert client.calls == ["start", "update", "update", "finish"]
    assert [chunk["num_buckets"] for chunk in client.chunks] == [2, 2]
    sent = dict(pair for chunk in client.chunks for pair in unpack(chunk["header"], chunk["data"]))
    assert {name: tensor.tolist() for name, tensor in sent.items()} == {
        "a": [1, 1, 1, 1],
        "b": [[2, 2], [2, 2]],
        "c": 3,
    }


def test_every_rank_goes_through_the_parameters_equally_often() -> None:
    """Each pass gathers ZeRO-3 shards, which needs all ranks: one pass too many waits for ever."""
    passes = []
    for rank in (0, 1):
        parameters, client = Parameters(), Client()
        made = sender(parameters, client, rank)
        for _ in range(2):
            made.send_weights()
        passes.append(parameters.passes)
    assert passes[0] == passes[1] == 3  # sizes once, then each update


def test_only_rank_0_speaks_to_the_client() -> None:
    client = Client()
    sender(Parameters(), client, rank=1).send_weights()
    assert client.calls == []


def test_a_client_that_fails_ends_the_update() -> None:
    class Broken(Client):
        def update_weights(self, update: dict[str, Any]) -> None:
            raise ConnectionError("gone")

    client = Broken()
    with pytest.raises(ConnectionError):
        sender(Parameters(), client).send_weights()
    assert client.calls == ["start"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_metadata_describe_what_is_sent_in_the_precision_of_the_wire(
    dtype: torch.dtype,
) -> None:
    source = PolicySource(Parameters(), dtype)
    described = [(meta.name, meta.dtype, meta.shape) for meta in source.metadata()]
    assert described == [(name, t.dtype, tuple(t.shape)) for name, t in source]
