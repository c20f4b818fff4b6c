"""Versions of the policy as adapters: served, kept while in use, dropped, refused."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rollout.adapters import Adapters
from rollout.lora import Adapter
from wire.adapters import CONFIG_NAME, WEIGHTS_NAME, AdapterFiles
from wire.errors import WeightUpdateError
from wire.types import PolicyVersion

FILES = AdapterFiles.of('{"r": 4}', {})


def version(step: int) -> PolicyVersion:
    return PolicyVersion(attempt=0, step=step)


class Engine:
    """Holds adapters as vLLM does: by number, their files read when they are loaded."""

    def __init__(self) -> None:
        self.held: dict[int, Adapter] = {}
        self.read: list[bytes] = []
        self.error: WeightUpdateError | None = None

    async def load_adapter(self, adapter: Adapter) -> None:
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        folder = Path(adapter.path)
        self.read.append((folder / CONFIG_NAME).read_bytes())
        assert (folder / WEIGHTS_NAME).read_bytes() == FILES.weights
        self.held[adapter.number] = adapter

    async def drop_adapter(self, adapter: Adapter) -> None:
        await asyncio.sleep(0)
        del self.held[adapter.number]

    @property
    def steps(self) -> list[int]:
        return [adapter.version.step for adapter in self.held.values()]


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def adapters(engine: Any) -> Adapters:
    return Adapters(engine)


async def publish(adapters: Adapters, step: int) -> None:
    await adapters.load(version(step), FILES)
    await adapters.serve(version(step))


async def test_before_the_first_a_request_has_none(adapters: Adapters):
    async with adapters.newest() as adapter:
        assert adapter is None


async def test_a_loaded_adapter_is_used_only_once_it_is_served(adapters: Adapters, engine: Engine):
    await publish(adapters, 1)
    await adapters.load(version(2), FILES)
    async with adapters.newest() as old, adapters.of(version(2)) as new:
        assert (old and old.version.step, new and new.version.step) == (1, 2)
    assert engine.read == [b'{"r": 4}'] * 2
    await adapters.serve(version(2))
    async with adapters.newest() as adapter:
        assert adapter
        assert adapter.version.step == 2
    assert engine.steps == [2]


async def test_an_old_adapter_stays_with_its_files_until_its_last_request_ends(
    adapters: Adapters, engine: Engine
):
    await publish(adapters, 1)
    async with adapters.newest() as one:
        async with adapters.newest() as same:
            assert same == one
            await publish(adapters, 2)
            await publish(adapters, 3)
            assert engine.steps == [1, 3]
        assert engine.steps == [1, 3]
        assert one
        assert (Path(one.path) / WEIGHTS_NAME).read_bytes() == FILES.weights
    assert engine.steps == [3]
    assert not Path(one.path).exists()


async def test_a_request_that_fails_lets_go_of_its_adapter(adapters: Adapters, engine: Engine):
    await publish(adapters, 1)

    async def fail() -> None:
        async with adapters.newest():
            await publish(adapters, 2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert engine.steps == [2]


async def test_a_request_that_ends_does_not_take_the_adapter_that_is_being_proven(
    adapters: Adapters, engine: Engine
):
    await publish(adapters, 1)
    async with adapters.newest():
        await adapters.load(version(2), FILES)
    assert engine.steps == [1, 2]


async def test_a_version_that_is_sent_again_has_another_name(adapters: Adapters, engine: Engine):
    """What the first one left in the prefix cache must not be found."""
    await publish(adapters, 1)
    await adapters.load(version(2), FILES)
    first = engine.held[2]
    await publish(adapters, 2)
    assert engine.steps == [2]
    assert engine.held[3].name != first.name
    assert engine.held[3].path != first.path


@pytest.mark.parametrize("damaged", [True, False])
async def test_an_adapter_that_is_refused_leaves_the_old_one(
    adapters: Adapters, engine: Engine, damaged: bool
):
    await publish(adapters, 1)
    checksum = FILES.checksum ^ damaged
    files = AdapterFiles(config=FILES.config, weights=FILES.weights, checksum=checksum)
    engine.error = None if damaged else WeightUpdateError("too large")
    with pytest.raises(WeightUpdateError):
        await adapters.load(version(2), files)
    with pytest.raises(WeightUpdateError, match="holds no adapter of version"):
        await adapters.serve(version(2))
    assert engine.steps == [1]
    async with adapters.newest() as adapter:
        assert adapter
        assert adapter.version.step == 1


async def test_many_requests_over_many_versions_leave_one_adapter(
    adapters: Adapters, engine: Engine
):
    await publish(adapters, 0)

    async def ask(index: int) -> None:
        await asyncio.sleep(0.001 * (index % 7))
        async with adapters.newest() as adapter:
            assert adapter is not None
            await asyncio.sleep(0.001 * (index % 5))
            assert adapter.number in engine.held

    requests = [asyncio.create_task(ask(index)) for index in range(60)]
    for step in range(1, 8):
        await publish(adapters, step)
        await asyncio.sleep(0.001)
    await asyncio.gather(*requests)
    assert engine.steps == [7]
