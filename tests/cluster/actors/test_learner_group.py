"""Clips of two epochs on four nodes, each with a cache of its own: in one process, on a real Ray.

The pool, the learner group, homes, caches, decoders and threads are the product's; the engine and
the update are scripted: they load clips, and take some time.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.actors import learner_group, ray_fleet
from cluster.actors.placement import Reservation, Seat
from tests.cluster.actors.clips_on_fake_nodes import (
    NODE_OF,
    ScriptedEngine,
    ScriptedRank,
    run_epochs,
)
from tests.cluster.actors.in_own_process import run_on_fake_nodes


class Here:
    """An actor class as Ray makes it, whose actors live in this process."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def options(self, **_: Any) -> "Here":
        return self

    def remote(self, *values: Any) -> "HereActor":
        return HereActor(self._make(*values))


class HereActor:
    """Its methods run in threads, as those of Ray's concurrency groups."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        return HereMethod(getattr(self._actor, name))


class HereMethod:
    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method

    def options(self, **group: str) -> "HereMethod":
        assert group == {"concurrency_group": "clips"}
        return self

    def remote(self, *values: Any) -> "asyncio.Future[Any]":
        if asyncio.iscoroutinefunction(self._method):
            return asyncio.ensure_future(self._method(*values))
        return asyncio.ensure_future(asyncio.to_thread(self._method, *values))


async def test_a_clip_is_decoded_once_a_node_and_no_rank_waits_in_the_second_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ray_fleet, "RemoteRolloutActor", Here(ScriptedEngine))
    monkeypatch.setattr(learner_group, "RemoteLearnerActorWithClips", Here(ScriptedRank))
    for who in ("engine", "rank"):
        for number in range(4):
            monkeypatch.setitem(NODE_OF, f"{who} {number}", f"node-{number}")
    sat = tuple(Seat(None, number, f"node-{number}") for number in range(4))  # type: ignore[arg-type]
    check(await run_epochs(tmp_path, Reservation(sat, sat)))


@pytest.mark.ray
@pytest.mark.slow
def test_the_same_on_four_nodes_of_a_real_ray():
    seen = run_on_fake_nodes("clips_on_fake_nodes")
    assert seen["nodes"] == 4
    check(seen)


def check(seen: dict[str, Any]) -> None:
    assert seen["most decodes of a clip on a node"] == 1
    assert seen["nodes per clip"] < 2, "of four, in two epochs with other neighbours"
    assert seen["waits, second epoch"] == [0.0] * 3
