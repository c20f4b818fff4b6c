"""A host copy goes into one engine: order of its calls, and how it fails. Through Ray's object
store: test_bucket_client.py."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, OwnerDiedError

from cluster.actors.host_copy import AdapterCopy, CopyLost, HostCopy
from wire.errors import DeadlineExceeded, WeightUpdateError, WorkerDied
from wire.types import PolicyVersion

VERSION = PolicyVersion(attempt=0, step=3)
COPY = HostCopy(version=VERSION, chunks=("c0", "c1", "c2", "c3"))


class Engine:
    """An actor that notes what it does; a call waits for the calls that it is given, as Ray's."""

    def __init__(self, fault: Exception | None = None, hangs: bool = False) -> None:
        self.done: list[str] = []
        self._fault, self._hangs = fault, hangs
        self.places: dict[int, str] = {}
        for name in ("begin_update", "hold", "update_weights", "finish_update", "load_adapter"):
            method = getattr(self, f"_{name}")
            setattr(self, name, SimpleNamespace(remote=self._started(method)))

    @staticmethod
    def _started(method: Any) -> Any:
        async def run(*values: Any) -> Any:
            given = [await v if isinstance(v, asyncio.Future) else v for v in values]
            return await method(*given)

        return lambda *values: asyncio.ensure_future(run(*values))

    async def _begin_update(self) -> None:
        self.done.append("begin")

    async def _hold(self, chunk: str, place: int) -> str:
        self.places[place] = chunk
        return chunk

    async def _update_weights(self, chunk: str, after: object) -> float:
        if self._hangs:
            await asyncio.get_running_loop().create_future()
        if self._fault:
            raise self._fault
        await asyncio.sleep(0.01)
        assert chunk in self.places.values(), "its place was given to another one"
        self.done.append(chunk)
        return 0.0

    async def _finish_update(self, version: PolicyVersion, after: object) -> None:
        self.done.append(f"finish {version}")

    async def _load_adapter(self, version: PolicyVersion, files: str) -> None:
        self.done.append(f"{files} {version}")


async def test_buckets_are_loaded_in_order_from_two_places():
    engine = Engine()
    await COPY.load_into("rollout-1", engine, 10)
    assert engine.done == ["begin", "c0", "c1", "c2", "c3", "finish 0.3"]
    assert engine.places == {0: "c2", 1: "c3"}


async def test_an_adapter_is_loaded_beside_the_others():
    engine = Engine()
    await AdapterCopy(version=VERSION, files="files").load_into("rollout-1", engine, 10)
    assert engine.done == ["files 0.3"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (WeightUpdateError("bucket 1 arrived damaged"), WeightUpdateError),
        (ActorDiedError(), WorkerDied),
        (OwnerDiedError("aa", "", ""), CopyLost),
    ],
)
async def test_failures_are_told_apart(fault: Exception, error: type[Exception]):
    with pytest.raises(error):
        await COPY.load_into("rollout-1", Engine(fault), 10)


async def test_an_engine_that_hangs_is_named_at_the_deadline():
    with pytest.raises(DeadlineExceeded, match=r"rollout-1 to load a copy .* version 0\.3"):
        await COPY.load_into("rollout-1", Engine(hangs=True), 0.1)
