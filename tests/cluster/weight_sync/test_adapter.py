import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from cluster.actors.host_copy import AdapterCopy, HostCopy
from cluster.actors.learner_actor import WeightSyncResult
from cluster.weight_sync.adapter import AdapterSync
from learner.shared_prefix.rows import Response, Row
from wire.errors import ParityError, WeightUpdateError
from wire.token_arrays import TokenIds
from wire.types import PolicyVersion, Prompt

PROBE = Row(
    prompt=Prompt(token_ids=(1, 2), clip_key="k", fingerprint="f"),
    video="a.mp4",
    responses=(Response(token_ids=TokenIds((5, 6))),),
)
EXPECTED, WRONG = [-0.5, -2.0], [-0.5, -2.1]


def version(step: int) -> PolicyVersion:
    return PolicyVersion(attempt=0, step=step)


class Engines:
    """The pool as weight sync uses it. ``wrong``: engines that give other logprobs, so often."""

    def __init__(self, *names: str, **wrong: int) -> None:
        self.names, self.in_service, self.wrong = list(names), set(names), wrong
        self.serving: dict[str, int] = {}
        self.probed_in_service: list[bool] = []
        self.loaded: list[tuple[str, HostCopy | AdapterCopy]] = []

    @property
    def num_workers(self) -> int:
        return len(self.names)

    def engines(self, names: Sequence[str]) -> Sequence[str]:
        return names

    @contextmanager
    def updating(self, version: PolicyVersion, *, others_serve: bool = False) -> Iterator[None]:
        assert others_serve, "an adapter is loaded beside those in use"
        self.version = version
        yield
        self.in_service = {n for n in self.in_service if self.serving.get(n) == version.step}

    async def some_running(self) -> None:
        pass

    async def find_alive(self, names: Sequence[str]) -> list[str]:
        return list(names)

    def update_failed(self, name: str) -> None:
        self.in_service.discard(name)

    def withhold(self, names: Sequence[str]) -> None:
        self.in_service -= set(names)

    def proven(self, name: str, version: PolicyVersion) -> None:
        self.in_service.add(name)

    async def load(self, name: str, copy: HostCopy | AdapterCopy) -> None:
        self.loaded.append((name, copy))

    async def serve_adapter(self, name: str, version: PolicyVersion) -> None:
        self.serving[name] = version.step

    async def logprobs(
        self, name: str, video: str, prompt: Prompt, response: Sequence[int], of: PolicyVersion
    ) -> list[float]:
        self.probed_in_service.append(name in self.in_service)
        left = self.wrong.get(name, 0)
        self.wrong[name] = max(0, left - 1)
        return WRONG if left else EXPECTED


class Learner:
    """Sends nothing; ``adapters``: whose adapter fails, try after try."""

    def __init__(self, *adapters: dict[str, str]) -> None:
        self.adapters = list(adapters)
        self.sent: list[tuple[str, list[str]]] = []

    async def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        assert not rows[0].responses[0].trains
        return [[EXPECTED]]

    async def publish(self, version: PolicyVersion, names: Sequence[str]) -> WeightSyncResult:
        self.sent.append(("model", list(names)))
        copy = HostCopy(version=version, chunks=())
        return WeightSyncResult(failures={}, figures={"weights/gb": 15.0}, copy=copy)

    async def publish_adapter(
        self, version: PolicyVersion, names: Sequence[str]
    ) -> WeightSyncResult:
        self.sent.append(("adapter", list(names)))
        failures = self.adapters.pop(0) if self.adapters else {}
        copy = AdapterCopy(version=version, files=None)
        return WeightSyncResult(failures=failures, figures={"weights/gb": 0.1}, copy=copy)


def make(engines: Engines, learner: Learner) -> AdapterSync:
    return AdapterSync(engines, learner, PROBE, 1e-5)  # type: ignore[arg-type]


async def test_the_model_goes_once_a_stage_and_the_adapter_every_version():
    engines, learner = Engines("a", "b"), Learner()
    sync = make(engines, learner)
    figures = [(await sync.publish(version(step))).figures for step in (1, 2)]
    assert [each["weights/gb"] for each in figures] == [15.0, 0.1]
    assert learner.sent == [("model", ["a", "b"]), ("adapter", ["a", "b"]), ("adapter", ["a", "b"])]
    assert engines.serving == {"a": 2, "b": 2}
    sync.begin()
    await sync.publish(version(3))
    assert learner.sent[3:] == [("model", ["a", "b"]), ("adapter", ["a", "b"])]


async def test_engines_serve_on_while_an_adapter_is_proven_and_not_while_a_model_is():
    engines = Engines("a")
    sync = make(engines, Learner())
    await sync.publish(version(1))
    await sync.publish(version(2))
    assert engines.probed_in_service == [False, True]
    assert engines.in_service == {"a"}


async def test_an_engine_that_disagrees_gets_model_and_adapter_again_alone():
    engines, learner = Engines("a", "b"), Learner()
    sync = make(engines, learner)
    await sync.publish(version(1))
    engines.wrong = {"b": 1}
    learner.sent.clear()
    report = await sync.publish(version(2))
    assert learner.sent == [("adapter", ["a", "b"]), ("model", ["b"]), ("adapter", ["b"])]
    assert engines.serving == {"a": 2, "b": 2}
    assert report.num_out_of_service == 0


async def test_an_engine_that_fails_twice_keeps_the_old_adapter_out_of_service_until_it_succeeds():
    broken = {"b": "the adapter arrived damaged"}
    engines, learner = Engines("a", "b"), Learner({}, broken, broken)
    sync = make(engines, learner)
    await sync.publish(version(1))
    assert (await sync.publish(version(2))).num_out_of_service == 1
    assert engines.serving == {"a": 2, "b": 1}
    assert engines.in_service == {"a"}
    assert (await sync.publish(version(3))).num_out_of_service == 0
    assert engines.serving == {"a": 3, "b": 3}
    assert engines.in_service == {"a", "b"}


async def test_no_engine_left_ends_the_run_with_the_reason():
    engines = Engines("a", a=2)
    with pytest.raises(WeightUpdateError, match=r"no engine came to version 0\.3.*differ"):
        await make(engines, Learner()).publish(version(3))
    assert not engines.in_service


async def test_adapters_are_proven_side_by_side() -> None:
    class Meeting(Engines):
        async def logprobs(self, *arguments: Any) -> list[float]:
            await both.wait()
            return await super().logprobs(*arguments)

    both = asyncio.Barrier(2)
    engines = Meeting("a", "b")
    sync = AdapterSync(engines, Learner(), PROBE, 1e-5)
    await asyncio.wait_for(sync.publish(version(1)), 10)
    assert engines.serving == {"a": 1, "b": 1}


async def test_an_engine_that_joins_gets_the_stages_model_and_the_newest_adapter_alone() -> None:
    engines, learner = Engines("a"), Learner()
    sync = make(engines, learner)
    assert await sync.catch_up("b") is None, "nothing is published"
    await sync.publish(version(1))
    await sync.publish(version(2))
    learner.sent.clear()
    assert await sync.catch_up("b") == version(2)
    model, adapter = [copy for _, copy in engines.loaded]
    assert (model.version, adapter.version) == (version(1), version(2))
    assert isinstance(model, HostCopy)
    assert isinstance(adapter, AdapterCopy)
    assert engines.serving["b"] == 2
    engines.names.append("b")
    engines.proven("b", version(2))
    await sync.publish(version(3))
    assert learner.sent == [("adapter", ["a", "b"])], "it has the model"
    sync.begin()
    assert await sync.catch_up("b") is None, "the learner has another model now"


async def test_a_joiner_that_a_stage_overtakes_lacks_the_model_of_that_stage() -> None:
    class NextStage(Engines):
        async def serve_adapter(self, name: str, version: PolicyVersion) -> None:
            await super().serve_adapter(name, version)
            if name == "b" and version.step == 1:
                sync.begin()
                self.names.append("b")

    engines, learner = NextStage("a"), Learner()
    sync = make(engines, learner)
    await sync.publish(version(1))
    assert await sync.catch_up("b") == version(1)
    learner.sent.clear()
    await sync.publish(version(2))
    assert {name for what, names in learner.sent if what == "model" for name in names} == {"a", "b"}


async def test_a_joiner_that_disagrees_serves_nothing() -> None:
    engines = Engines("a")
    sync = make(engines, Learner())
    await sync.publish(version(1))
    engines.wrong = {"b": 1}
    with pytest.raises(ParityError, match=r"b: logprobs differ by 0\.05"):
        await sync.catch_up("b")
    assert "b" not in engines.serving
