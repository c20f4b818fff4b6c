"""The client of buckets and the hosts' side of the memory they share, in real actors that have no
engines."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from cluster.actors import bucket_client
from cluster.actors.bucket_client import BucketClient
from cluster.actors.engine_calls import EngineSet
from cluster.actors.host_copy import HostCopy
from cluster.actors.rollout_actor import RolloutActor
from wire.errors import WeightUpdateError
from wire.shared_memory import SharedBuffer, SharedReader
from wire.types import PolicyVersion
from wire.weights import digest

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[3]
VERSION = PolicyVersion(attempt=0, step=1)
NUM_BUCKETS = 4  # at most, of the updates here


class Host(RolloutActor):
    """A rollout worker on a node of that name (none: the real one), without an engine."""

    def __init__(self, node: str | None = None, fault: str = "") -> None:
        self._node, self._fault, self._held = node, fault, dict[int, SharedBuffer]()
        self._holding, self.events = ThreadPoolExecutor(2), list[tuple[str, float]]()
        self._reader, self.paths, self.sums = SharedReader(), list[str](), list[int]()
        self._go = asyncio.Event()

    def node(self) -> str:
        return self._node or super().node()

    async def begin_update(self, after: object = None) -> None:
        self._note("begin")

    async def update_weights(self, update: dict[str, Any], after: object = None) -> float:
        assert "data" not in update
        self._note(f"load {update['size']}")
        if self._fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "hangs":
            time.sleep(60)
        if self._fault == "fails":
            raise WeightUpdateError("bucket 0 arrived damaged")
        if self._fault == "waits":
            await self._go.wait()
        if self._fault == "slow":
            await asyncio.sleep(0.5)
        self.paths.append(update["path"])
        self.sums.append(int(self._reader.view(update["path"])[: update["size"]].sum()))
        self._note(f"loaded {update['size']}")
        return 0.5

    async def go(self) -> None:
        self._go.set()

    async def hold(self, chunk: dict[str, Any], place: int) -> dict[str, Any]:
        self._note(f"hold {chunk['size']}")
        if self._fault == "cannot hold":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "bad network":
            chunk = chunk | {"data": chunk["data"] ^ 1}
        if self._fault == "slow network":
            await asyncio.sleep(0.5)
        held = await super().hold(chunk, place)
        self._note(f"held {chunk['size']}")
        return held

    async def finish_update(self, version: PolicyVersion, after: object = None) -> None:
        assert version == VERSION
        self._note("finish")

    def _note(self, event: str) -> None:
        self.events.append((event, time.monotonic()))

    def seen(self) -> list[tuple[str, float]]:
        return self.events

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


def opened(hosts: dict[str, Any], timeout_s: float = 60) -> BucketClient:
    client = BucketClient(timeout_s - 30)
    client.open(VERSION, EngineSet(epoch=0, actors=hosts))
    client.start_weight_update()
    return client


def chunk_in(buffer: SharedBuffer, size: int) -> dict[str, Any]:
    buffer.data[:size] = size
    data = buffer.data[:size]
    return {"size": size, "path": buffer.path, "data": data, "num_buckets": NUM_BUCKETS}


def publish(
    hosts: dict[str, Any], timeout_s: float = 60, sizes: Sequence[int] = (5, 9)
) -> BucketClient:
    """Chunks in two places by turns, as the learner sends them."""
    client, buffers = opened(hosts, timeout_s), [SharedBuffer(64) for _ in range(2)]
    for index, size in enumerate(sizes):
        client.update_weights(chunk_in(buffers[index % 2], size))
    client.finish_weight_update()
    return client


def publish_at_rest(hosts: dict[str, Any], timeout_s: float = 60) -> BucketClient:
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
    assert (one_by_one.load_s, at_rest.load_s) == (1.0, 1.0)
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
        pytest.param(
            *(publish_at_rest, "hangs", "update_weights did not end within 8 s"),
            marks=pytest.mark.slow,
        ),
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


@pytest.mark.parametrize("send", [publish, pytest.param(publish_at_rest, marks=pytest.mark.slow)])
async def test_an_engine_that_joins_loads_the_buckets_of_the_host_copy_alone(
    make: Any, send: Any
) -> None:
    """Also where every engine of the update failed, and after the memory that was sent from has
    changed."""
    client = send(make(a=(None, "fails")))
    assert list(client.failures) == ["a"]
    assert isinstance(client.copy, HostCopy)
    (joiner,) = make(joiner=("x", "")).values()
    await client.copy.load_into("joiner", joiner, 60)
    assert told(joiner)[2] == [25, 81]
    assert list(events(joiner))[-1] == "finish"


def test_a_copy_that_would_fill_the_object_store_is_not_kept(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_client, "_store_bytes", lambda: 49.0)  # 5 bytes, up to 4 times
    hosts = make(near=(None, ""), far=("x", ""))
    client = publish(hosts)
    assert client.copy is None
    assert [told(host)[2] for host in hosts.values()] == [[25, 81]] * 2
    monkeypatch.setattr(bucket_client, "_store_bytes", lambda: 51.0)
    assert publish(hosts).copy is not None


def test_nobody_left_is_told_by_the_failures_alone(make: Any) -> None:
    """Rank 0 goes on gathering with the other ranks."""
    client = publish(make(a=(None, "fails")))
    assert list(client.failures) == ["a"]


def test_a_hold_that_grows_is_read_whole_and_two_places_do_not_overlap(make: Any) -> None:
    (host,) = make(far=("x", "")).values()
    for size in (4, 100):
        paths = []
        for place in (0, 1):
            data = np.full(size, 3 + place, np.uint8)
            chunk = {"size": size, "data": data, "digest": digest(data)}
            held = ray.get(host.hold.remote(chunk, place), timeout=60)
            assert set(held) == {"size", "path"}
            paths.append(held["path"])
        read = [SharedReader().view(path)[:size].tolist() for path in paths]
        assert read == [[3] * size, [4] * size]


def events(host: Any) -> dict[str, float]:
    return dict(ray.get(host.seen.remote(), timeout=60))


def test_the_next_bucket_is_held_while_the_last_one_loads_and_no_more_than_two(make: Any) -> None:
    hosts = make(far1=("x", "slow"), far2=("x", "slow"))
    assert publish(hosts, sizes=(5, 9, 13, 17)).failures == {}
    holder, other = events(hosts["far1"]), events(hosts["far2"])
    for now, following, later in ((5, 9, 13), (9, 13, 17)):
        assert holder[f"held {following}"] < holder[f"loaded {now}"]
        assert holder[f"hold {later}"] > max(e[f"loaded {now}"] for e in (holder, other))
    assert told(hosts["far2"])[2] == [25, 81, 169, 289]


def test_an_engine_writes_on_until_the_first_bucket_is_on_its_node(make: Any) -> None:
    hosts = make(near=(None, ""), far1=("x", "slow network"), far2=("x", ""), other=("y", ""))
    assert publish(hosts).failures == {}
    held = events(hosts["far1"])["held 5"]
    assert min(events(hosts[name])["begin"] for name in ("far1", "far2")) > held
    assert events(hosts["other"])["begin"] < held, "another node has its own time"


def test_a_slow_node_keeps_nobody_waiting_where_weights_stay_in_place(make: Any) -> None:
    hosts = make(near=(None, ""), far=("x", "slow network"))
    assert publish_at_rest(hosts).failures == {}
    assert events(hosts["near"])["finish"] < events(hosts["far"])["begin"]


def test_what_is_damaged_on_one_node_is_that_nodes_failure_only(make: Any) -> None:
    hosts = make(far1=("x", "bad network"), far2=("x", ""), other1=("y", ""), other2=("y", ""))
    assert set(publish(hosts, sizes=(5, 9, 13)).failures) == {"far1", "far2"}
    assert [told(hosts[name])[2] for name in ("other1", "other2")] == [[25, 81, 169]] * 2


@pytest.mark.slow
def test_a_bucket_crosses_to_each_of_several_nodes_once_and_in_time() -> None:
    """Three nodes with object stores of their own, two engines on each; every load takes half a
    second."""
    words = [sys.executable, "-m", "tests.cluster.actors.buckets_on_fake_nodes"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["failures"] == {}
    assert seen["pulled"] == pytest.approx([1.0, 1.0, 1.0], abs=0.02), "rank 0's: what it put there"
    size = 6 * 2**20
    sums = [(size - index) * index for index in range(6)]
    assert all(each == sums for each in seen["sums"].values())
    for node in (1, 2):
        holder, other = (dict(seen["events"][f"{node}-{index}"]) for index in (0, 1))
        assert holder[f"held {size}"] < min(holder["begin"], other["begin"])
        for index in range(5):
            assert holder[f"held {size - index - 1}"] < holder[f"loaded {size - index}"]
    for name in ("0-0", "0-1"):
        assert not [event for event, _ in seen["events"][name] if event.startswith("hold")]
