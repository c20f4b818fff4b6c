import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from cluster.actors.host_copy import CopyLost, HostCopy
from cluster.actors.learner_actor import WeightSyncResult
from cluster.weight_sync.full_weights import WeightSync
from cluster.weight_sync.parity_probe import largest_difference
from learner.shared_prefix.rows import Response, Row
from wire.errors import ParityError, WeightUpdateError
from wire.token_arrays import TokenIds
from wire.types import PolicyVersion, Prompt

VERSION = PolicyVersion(attempt=0, step=3)
PROBE = Row(
    prompt=Prompt(token_ids=(1, 2), clip_key="k", fingerprint="f"),
    video="a.mp4",
    responses=(Response(token_ids=TokenIds((5, 6))),),
)
EXPECTED = [-0.5, -2.0]


class Engines:
    """The pool as weight sync uses it: each name has the logprobs it gives, try after try."""

    def __init__(self, answers: dict[str, list[list[float]]]) -> None:
        self.answers, self.names = answers, list(answers)
        self.num_workers = len(answers)
        self.in_service: set[str] = set(answers)
        self.dead: set[str] = set()
        self.withdrawn: list[str] = []
        self.loaded: list[tuple[str, HostCopy]] = []
        self.copy_is_lost = False

    @contextmanager
    def updating(self, version: PolicyVersion, *, others_serve: bool = False) -> Iterator[None]:
        assert not others_serve, "weights are loaded in place"
        self.in_service.clear()
        yield

    async def some_running(self) -> None:
        assert self.names

    def proven(self, name: str, version: PolicyVersion) -> None:
        self.in_service.add(name)

    def engines(self, names: Sequence[str]) -> Sequence[str]:
        return names

    def update_failed(self, name: str) -> None:
        assert name not in self.in_service
        self.withdrawn.append(name)

    async def load(self, name: str, copy: HostCopy) -> None:
        if self.copy_is_lost:
            raise CopyLost("its owner has died")
        self.loaded.append((name, copy))

    async def find_alive(self, names: Sequence[str]) -> list[str]:
        self.names = [name for name in self.names if name not in self.dead]
        return [name for name in names if name not in self.dead]

    async def logprobs(
        self,
        name: str,
        video: str,
        prompt: Prompt,
        response: Sequence[int],
        adapter_of: PolicyVersion | None,
    ) -> list[float]:
        assert adapter_of is None, "the whole model was sent"
        assert name not in self.in_service, "a worker is proven before it serves"
        return self.answers[name].pop(0)


class Learner:
    """Sends nothing; fails for the names it is told to, try after try."""

    def __init__(self, *failures: dict[str, str]) -> None:
        self.failures, self.sent = list(failures), list[list[str]]()
        self.num_asked = 0
        self.keeps_copy = True

    def copy_of(self, version: PolicyVersion) -> HostCopy | None:
        return HostCopy(version=version, chunks=()) if self.keeps_copy else None

    async def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        assert not rows[0].responses[0].trains
        self.num_asked += 1
        return [[EXPECTED]]

    async def publish(self, version: PolicyVersion, names: Sequence[str]) -> WeightSyncResult:
        self.sent.append(list(names))
        failures = self.failures.pop(0) if self.failures else {}
        figures = {"weights/gb": float(len(names))}
        return WeightSyncResult(failures=failures, figures=figures, copy=self.copy_of(version))


def make(engines: Engines, learner: Learner) -> WeightSync:
    return WeightSync(engines, learner, PROBE, 1e-5)  # type: ignore[arg-type]


async def test_engines_that_agree_serve_again():
    engines = Engines({"a": [EXPECTED], "b": [[-0.5, -2.000001]]})
    report = await make(engines, Learner()).publish(VERSION)
    assert engines.in_service == {"a", "b"}
    assert report.max_logprob_diff == pytest.approx(5e-7)
    assert report.num_out_of_service == 0


async def test_engines_are_proven_side_by_side():
    class Meeting(Engines):
        async def logprobs(self, *arguments: object) -> list[float]:
            await both.wait()
            return await super().logprobs(*arguments)  # type: ignore[arg-type]

    both = asyncio.Barrier(2)
    engines = Meeting({"a": [EXPECTED], "b": [EXPECTED]})
    await asyncio.wait_for(make(engines, Learner()).publish(VERSION), 10)
    assert engines.in_service == {"a", "b"}


async def test_an_engine_that_disagrees_is_sent_everything_again_alone():
    engines = Engines({"a": [EXPECTED], "b": [[-0.5, -2.1], EXPECTED]})
    learner = Learner()
    await make(engines, learner).publish(VERSION)
    assert learner.sent == [["a", "b"], ["b"]]
    assert engines.in_service == {"a", "b"}


async def test_the_learner_is_asked_once_and_before_any_engine_works():
    """On a CPU both would share the cores; a second try is of the same weights."""

    class Late(Learner):
        async def publish(self, version: PolicyVersion, names: Sequence[str]) -> WeightSyncResult:
            assert self.num_asked == 1
            return await super().publish(version, names)

    learner = Late()
    await make(Engines({"a": [[-0.5, -2.1], EXPECTED]}), learner).publish(VERSION)
    assert (learner.num_asked, learner.sent) == (1, [["a"], ["a"]])


async def test_an_engine_that_still_disagrees_stays_out_of_service_until_a_later_update():
    wrong = [-0.5, -2.1]
    engines = Engines({"a": [EXPECTED, EXPECTED], "b": [wrong, wrong, EXPECTED]})
    learner = Learner()
    sync = make(engines, learner)
    assert (await sync.publish(VERSION)).num_out_of_service == 1
    assert engines.in_service == {"a"}
    assert engines.withdrawn == ["b"], "others answer what it holds"
    assert (await sync.publish(VERSION)).num_out_of_service == 0
    assert engines.in_service == {"a", "b"}
    assert learner.sent[2:] == [["a"], ["b"]], "it keeps nobody waiting"


async def test_a_failed_transfer_is_tried_again():
    engines = Engines({"a": [EXPECTED], "b": [EXPECTED]})
    learner = Learner({"b": "bucket 3 arrived damaged"})
    await make(engines, learner).publish(VERSION)
    assert learner.sent == [["a", "b"], ["b"]]
    assert engines.in_service == {"a", "b"}


async def test_an_engine_whose_process_ended_is_not_asked_again():
    engines = Engines({"a": [EXPECTED, EXPECTED], "b": []})
    engines.dead = {"b"}
    learner = Learner({"b": "ActorDiedError"})
    sync = make(engines, learner)
    assert (await sync.publish(VERSION)).num_out_of_service == 1
    assert (await sync.publish(VERSION)).num_out_of_service == 1
    assert learner.sent == [["a", "b"], ["a"]]
    assert engines.in_service == {"a"}


async def test_the_figures_are_those_of_the_first_sending():
    engines = Engines({"a": [EXPECTED], "b": [EXPECTED]})
    learner = Learner({"b": "bucket 3 arrived damaged"})
    assert (await make(engines, learner).publish(VERSION)).figures["weights/gb"] == 2.0


async def test_no_engine_left_ends_the_run_with_the_reason():
    engines = Engines({"a": [[float("nan"), 0.0], [-9.0, -9.0]]})
    with pytest.raises(WeightUpdateError, match=r"no engine came to version 0\.3.*differ"):
        await make(engines, Learner()).publish(VERSION)
    assert not engines.in_service


async def test_an_engine_that_joins_gets_the_newest_weights_without_learner_or_other_engines():
    engines = Engines({"a": [EXPECTED] * 2, "b": [EXPECTED]})
    engines.names = ["a"]
    learner = Learner()
    sync = make(engines, learner)
    assert await sync.catch_up("b") is None, "nothing is published"
    await sync.publish(VERSION)
    newer = PolicyVersion(attempt=0, step=4)
    await sync.publish(newer)
    asked, sent = learner.num_asked, len(learner.sent)
    assert await sync.catch_up("b") == newer
    assert engines.loaded == [("b", HostCopy(version=newer, chunks=()))]
    assert (learner.num_asked, len(learner.sent)) == (asked, sent)
    assert "b" not in engines.in_service, "whether these may serve, the pool knows"


async def test_a_joiner_that_does_not_compute_what_the_learner_did_is_refused():
    engines = Engines({"a": [EXPECTED], "b": [[-0.5, -2.1]]})
    engines.names = ["a"]
    sync = make(engines, Learner())
    await sync.publish(VERSION)
    with pytest.raises(ParityError, match="b: logprobs differ by"):
        await sync.catch_up("b")


async def test_without_a_host_copy_a_joiner_waits_for_the_next_update(
    caplog: pytest.LogCaptureFixture,
):
    engines, learner = Engines({"a": [EXPECTED] * 3, "b": []}), Learner()
    engines.names = ["a"]
    sync = make(engines, learner)
    learner.keeps_copy = False
    for _ in range(2):
        await sync.publish(VERSION)
    assert caplog.text.count("no copy of the weights is kept") == 1
    assert await sync.catch_up("b") is None
    learner.keeps_copy = True
    await sync.publish(VERSION)
    engines.copy_is_lost = True
    assert await sync.catch_up("b") is None, "rank 0 has died"


def test_rounding_of_unlikely_tokens_is_relative():
    assert largest_difference([-20.00002], [-20.0]) == pytest.approx(1e-6, rel=1e-3)
    assert largest_difference([-0.00002], [0.0]) == pytest.approx(2e-5)
