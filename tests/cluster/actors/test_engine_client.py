"""The client and the hosts' side of the memory they share, in real actors without engines."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

from cluster.actors.engine_client import EngineClient
from cluster.actors.rollout_actor import RolloutActor
from wire.errors import WeightUpdateError
from wire.shared_memory import SharedBuffer, SharedReader
from wire.types import PolicyVersion
from wire.weights import digest

pytestmark = pytest.mark.ray

VERSION = PolicyVersion(attempt=0, step=1)


class Host(RolloutActor):
    """A rollout worker on a node of that name (none: the real one), without an engine."""

    def __init__(self, node: str | None = None, fault: str = "") -> None:
        self._node, self._fault, self._held = node, fault, None
        self._reader, self.paths, self.sums = SharedReader(), list[str](), list[int]()
        self._go = asyncio.Event()

    def node(self) -> str:
        return self._node or super().node()

    async def begin_update(self) -> None:
        pass

    async def update_weights(self, update: dict[str, Any]) -> float:
        assert "data" not in update
        if self._fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "hangs":
            time.sleep(60)
        if self._fault == "fails":
            raise WeightUpdateError("bucket 0 arrived damaged")
        if self._fault == "waits":
            await self._go.wait()
        self.paths.append(update["path"])
        self.sums.append(int(self._reader.view(update["path"])[: update["size"]].sum()))
        return 0.5

    async def go(self) -> None:
        self._go.set()

    def cache_chunk(self, update: dict[str, Any]) -> dict[str, Any]:
        if self._fault == "cannot hold":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "bad network":
            update = update | {"data": update["data"] ^ 1}
        return super().cache_chunk(update)

    async def finish_update(self, version: PolicyVersion) -> None:
        assert version == VERSION

    def told(self) -> tuple[int, list[str], list[int]]:
        return os.getpid(), self.paths, self.sums


@pytest.fixture(scope="module")
def make(ray_session: None) -> Iterator[Any]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    actor, made = ray.remote(num_cpus=0)(Host), []

    def hosts(**given: tuple[str | None, str]) -> dict[str, Any]:
        found = {name: actor.remote(*values) for name, values in given.items()}
        made.extend(found.values())
        ray.get([host.told.remote() for host in found.values()], timeout=240)  # they are up
        return found

    yield hosts
    for each in made:
        ray.kill(each)


def opened(hosts: dict[str, Any], timeout_s: float = 60) -> EngineClient:
    client = EngineClient(hosts, 1, timeout_s)
    client.open(VERSION, list(hosts))
    client.start_weight_update()
    return client


def chunk_in(buffer: SharedBuffer, size: int) -> dict[str, Any]:
    buffer.data[:size] = size
    return {"size": size, "path": buffer.path, "data": buffer.data[:size]}


def publish(hosts: dict[str, Any], timeout_s: float = 60) -> EngineClient:
    """Two chunks, one after another in the same memory."""
    client, buffer = opened(hosts, timeout_s), SharedBuffer(16)
    for size in (5, 9):
        client.update_weights(chunk_in(buffer, size))
    client.finish_weight_update()
    return client


def publish_at_rest(hosts: dict[str, Any], timeout_s: float = 60) -> EngineClient:
    """Two chunks, each in memory of its own."""
    client, buffers = opened(hosts, timeout_s), [SharedBuffer(16) for _ in range(2)]
    for buffer, size in zip(buffers, (5, 9), strict=True):
        client.update_weights({**chunk_in(buffer, size), "stay": True})
    client.finish_weight_update()
    return client


def told(host: Any) -> tuple[int, list[str], list[int]]:
    return ray.get(host.told.remote(), timeout=60)


def test_engines_of_the_learners_node_read_its_own_memory(make: Any) -> None:
    hosts = make(a=(None, ""), b=(None, ""))
    one_by_one, at_rest = publish(hosts), publish_at_rest(hosts)
    assert one_by_one.failures == at_rest.failures == {}
    assert (one_by_one.load_s, at_rest.load_s) == (1.0, 0.5)
    for host in hosts.values():
        _, paths, sums = told(host)
        assert sums == [25, 81] * 2
        assert all(path.startswith(f"/proc/{os.getpid()}/") for path in paths)


def test_an_engine_is_not_waited_for_as_long_as_its_chunk_stays_where_it_is(make: Any) -> None:
    hosts = make(a=(None, "waits"))
    client, buffers = opened(hosts), [SharedBuffer(16) for _ in range(2)]
    for buffer, size in zip(buffers, (5, 9), strict=True):
        client.update_weights({**chunk_in(buffer, size), "stay": True})
    assert told(hosts["a"])[2] == []
    hosts["a"].go.remote()
    client.finish_weight_update()
    assert told(hosts["a"])[2] == [25, 81]


def test_engines_of_another_node_share_what_one_of_them_holds(make: Any) -> None:
    hosts = make(near=(None, ""), far1=("x", ""), far2=("x", ""), other=("y", ""))
    assert publish(hosts).failures == publish_at_rest(hosts).failures == {}
    holder = told(hosts["far1"])[0]
    for name, owner in {"far1": holder, "far2": holder, "other": told(hosts["other"])[0]}.items():
        _, paths, sums = told(hosts[name])
        assert sums == [25, 81] * 2
        assert all(path.startswith(f"/proc/{owner}/") for path in paths)


@pytest.mark.parametrize(
    ("send", "fault", "message"),
    [
        (publish_at_rest, "dies", "update_weights: .*died"),
        (publish_at_rest, "hangs", "update_weights did not end within 8 s"),
        (publish, "fails", "WeightUpdateError: bucket 0 arrived damaged"),
    ],
)
def test_a_worker_that_fails_leaves_with_its_reason_and_the_others_go_on(
    make: Any, send: Any, fault: str, message: str
) -> None:
    hosts = make(a=(None, ""), b=(None, fault), c=("x", ""))
    start = time.monotonic()
    client = send(hosts, timeout_s=8.0)
    assert time.monotonic() - start < 30
    assert list(client.failures) == ["b"]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(client.failures["b"])
    assert [told(hosts[name])[2] for name in "ac"] == [[25, 81]] * 2


def test_a_node_whose_holder_dies_is_told_who_it_was(make: Any) -> None:
    hosts = make(near=(None, ""), far1=("x", "cannot hold"), far2=("x", ""))
    client = publish(hosts)
    assert "died" in client.failures["far1"]
    assert client.failures["far2"] == "far1 did not bring the weights to this node"
    assert told(hosts["near"])[2] == [25, 81]


def test_bytes_that_change_on_their_way_to_another_node_are_noticed_there(make: Any) -> None:
    hosts = make(near=(None, ""), far1=("x", "bad network"), far2=("x", ""))
    client = publish(hosts)
    assert "weights came to this node damaged" in client.failures["far1"]
    assert client.failures["far2"] == "far1 did not bring the weights to this node"
    assert told(hosts["near"])[2] == [25, 81]


def test_nobody_left_is_told_by_the_failures_alone(make: Any) -> None:
    """Rank 0 goes on gathering with the other ranks."""
    client = publish(make(a=(None, "fails")))
    assert list(client.failures) == ["a"]


def test_a_hold_that_grows_is_read_whole(make: Any) -> None:
    (host,) = make(far=("x", "")).values()
    for size in (4, 100):
        data = np.full(size, 3, np.uint8)
        chunk = {"size": size, "data": data, "digest": digest(data)}
        held = ray.get(host.cache_chunk.remote(chunk), timeout=60)
        assert set(held) == {"size", "path"}
        assert SharedReader().view(held["path"])[:size].tolist() == [3] * size
