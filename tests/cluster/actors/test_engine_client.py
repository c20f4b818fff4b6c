"""The clients of ``nccl`` and ``ipc``, with real actors that take part as they are told."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from cluster.actors.engine_calls import EngineSet
from cluster.actors.engine_client import EngineClient, GroupEngineClient
from wire.engine_group import GIVEN_UP
from wire.errors import WeightUpdateError
from wire.types import PolicyVersion

pytestmark = pytest.mark.ray

VERSION = PolicyVersion(attempt=0, step=1)


class Engine:
    """Takes part in an update until it meets its fault."""

    def __init__(self, fault: str = "") -> None:
        self.fault, self.calls = fault, list[Any]()
        self._released = asyncio.Event()

    async def init_transfer(self, init_info: dict[str, Any]) -> None:
        self.calls.append(init_info["rank_offset"])

    async def begin_update(self) -> None:
        self.calls.append("begin")

    async def update_weights(self, update: dict[str, Any]) -> float:
        if self.fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "waits":
            await self._released.wait()
            raise WeightUpdateError(f"the engine could not load weights: {GIVEN_UP}")
        if self.fault == "hangs":
            await asyncio.sleep(60)
        return 0.25

    async def release(self) -> None:
        self._released.set()

    async def finish_update(self, version: PolicyVersion) -> None:
        self.calls.append("finish")

    async def told(self) -> list[Any]:
        return self.calls


@pytest.fixture(scope="module")
def make(ray_session: None) -> Iterator[Any]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    actor, made = ray.remote(num_cpus=0)(Engine), []

    def engines(*faults: str) -> dict[str, Any]:
        given = {f"e{i}": actor.remote(fault) for i, fault in enumerate(faults)}
        made.extend(given.values())
        ray.get([each.told.remote() for each in given.values()], timeout=240)
        return given

    yield engines
    for each in made:
        ray.kill(each)


def opened(kind: type[EngineClient], actors: dict[str, Any], timeout_s: float = 60) -> Any:
    client = kind(timeout_s - 30)
    client.open(VERSION, EngineSet(epoch=3, actors=actors, ranks_per_engine=2))
    return client


def test_the_ranks_of_a_group_are_numbered_through_its_engines(make: Any) -> None:
    actors = make("", "")
    client = opened(GroupEngineClient, actors)
    client.init_weight_transfer_engine({"rank_offset": 1})
    client.start_weight_update()
    client.update_weights({})
    client.finish_weight_update()
    assert (client.membership.epoch, client.membership.world_size) == (3, 5)
    assert [ray.get(a.told.remote()) for a in actors.values()] == [
        [1, "begin", "finish"],
        [3, "begin", "finish"],
    ]
    assert (client.failures, client.load_s) == ({}, 0.25)


def test_a_member_that_dies_fails_the_call_at_once_though_others_wait(make: Any) -> None:
    actors = make("waits", "waits", "dies")
    client = opened(GroupEngineClient, actors)
    start = time.monotonic()
    with pytest.raises(WeightUpdateError, match=r"update_weights: e2: .*died"):
        client.update_weights({})
    assert time.monotonic() - start < 20
    for name in ("e0", "e1"):
        actors[name].release.remote()
    assert set(client.find_unsound(20.0)) == {"e2"}
    client.break_up({"e2": "it died"}, "the group broke")
    assert (client.failures, client.untried) == ({"e2": "it died"}, ["e0", "e1"])


def test_a_member_that_hangs_is_the_one_that_does_not_come_back(make: Any) -> None:
    actors = make("waits", "hangs")
    client = opened(GroupEngineClient, actors, timeout_s=3.0)
    with pytest.raises(WeightUpdateError, match="no answer of e0, e1 within 3 s"):
        client.update_weights({})
    actors["e0"].release.remote()
    assert list(client.find_unsound(2.0)) == ["e1"]


def test_a_group_that_breaks_without_a_culprit_has_failed_as_a_whole(make: Any) -> None:
    client = opened(GroupEngineClient, make("", ""))
    client.break_up({}, "NCCL did not form the group")
    assert client.failures == dict.fromkeys(("e0", "e1"), "NCCL did not form the group")
    assert client.untried == []


def test_engines_that_take_an_update_each_on_its_own_go_on_without_one_that_dies(make: Any) -> None:
    client = opened(EngineClient, make("", "dies"))
    client.start_weight_update()
    client.update_weights({})
    client.finish_weight_update()
    assert list(client.failures) == ["e1"]
    assert client.load_s == 0.25
