import asyncio
from collections.abc import Sequence

import pytest

from cluster.actors.learner_actor import WeightSyncResult
from cluster.weight_sync.prove_before_serving import WeightSyncReport, bring_engines_to
from wire.errors import WeightUpdateError, WorkerDied
from wire.types import PolicyVersion

VERSION = PolicyVersion(attempt=0, step=3)


class Engines:
    """A pool, and a way of sending to it: what it does goes wrong as ``plan`` says, try by try."""

    def __init__(self, *names: str) -> None:
        self.all, self.num_workers = list(names), len(names)
        self.in_service: set[str] = set()
        self.dead: set[str] = set()
        self.sent: list[list[str]] = []
        self.proven: list[list[str]] = []
        self.dropped: list[str] = []
        self.send_failures: list[dict[str, str] | WeightUpdateError] = []
        self.untried: list[list[str]] = []
        self.withdrawn: list[str] = []
        self.num_waits = 0
        self.outcomes: dict[str, list[float | str]] = {}
        self.admit_failures: dict[str, list[Exception]] = {}

    @property
    def names(self) -> list[str]:
        return [name for name in self.all if name not in self.dead]

    async def find_alive(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name not in self.dead]

    async def send(self, names: list[str]) -> WeightSyncResult:
        self.sent.append(names)
        failures = self.send_failures.pop(0) if self.send_failures else {}
        if isinstance(failures, WeightUpdateError):
            raise failures
        untried = self.untried.pop(0) if self.untried else []
        figures = {"weights/gb": float(len(names))}
        return WeightSyncResult(failures=failures, untried=untried, figures=figures)

    def update_failed(self, name: str) -> None:
        self.withdrawn.append(name)

    async def some_running(self) -> None:
        """As the supervisor starts dead ones anew."""
        if self.dead.issuperset(self.names):
            self.dead.clear()
            self.num_waits += 1

    async def prove(self, names: list[str]) -> list[float | str]:
        self.proven.append(names)
        return [self.outcomes[name].pop(0) if self.outcomes.get(name) else 0.0 for name in names]

    async def admit(self, name: str) -> None:
        if self.admit_failures.get(name):
            raise self.admit_failures[name].pop(0)
        self.in_service.add(name)

    async def bring(self) -> WeightSyncReport:
        return await bring_engines_to(
            VERSION,
            self,  # type: ignore[arg-type]
            send=self.send,
            prove=self.prove,
            admit=self.admit,
            drop=self.dropped.append,
        )


async def test_engines_that_are_proven_are_admitted():
    engines = Engines("a", "b")
    engines.outcomes = {"a": [1e-6], "b": [3e-6]}
    report = await engines.bring()
    assert report == WeightSyncReport(
        max_logprob_diff=3e-6, num_out_of_service=0, figures={"weights/gb": 2.0}
    )
    assert engines.in_service == {"a", "b"}
    assert engines.sent == [["a", "b"]]
    assert engines.dropped == []


async def test_an_engine_that_failed_in_any_step_gets_everything_once_more():
    engines = Engines("a", "b", "c", "d")
    engines.send_failures = [{"b": "arrived damaged"}]
    engines.outcomes = {"c": ["logprobs differ"]}
    engines.admit_failures = {"d": [WorkerDied("it ended")]}
    report = await engines.bring()
    assert engines.sent == [["a", "b", "c", "d"], ["b", "c", "d"]]
    assert engines.proven == [["a", "c", "d"], ["b", "c", "d"]]
    assert sorted(engines.dropped) == ["b", "c", "d"]
    assert report.num_out_of_service == 0
    assert report.figures["weights/gb"] == 4.0


async def test_the_time_of_a_try_in_which_an_engine_failed_is_said_to_be_lost():
    engines = Engines("a", "b")
    send = engines.send

    async def late(names: list[str]) -> WeightSyncResult:
        await asyncio.sleep(0.05 if len(names) == 2 else 0.3)
        return await send(names)

    engines.send = late  # type: ignore[method-assign]
    engines.send_failures = [{"b": "hangs"}]
    assert 0.05 <= (await engines.bring()).figures["weights/lost_s"] < 0.3, "the second try is not"


async def test_an_engine_that_fails_twice_is_out_of_service():
    engines = Engines("a", "b")
    engines.outcomes = {"b": ["logprobs differ", "logprobs differ"]}
    assert (await engines.bring()).num_out_of_service == 1
    assert engines.dropped == ["b", "b"]
    assert engines.in_service == {"a"}


async def test_an_engine_whose_process_ended_is_not_asked_again():
    engines = Engines("a", "b")

    async def prove(names: list[str]) -> list[float | str]:
        engines.dead = {"b"}
        return [0.0, "it ended"]

    engines.prove = prove  # type: ignore[method-assign, assignment]
    await engines.bring()
    assert engines.sent == [["a", "b"]]


async def test_an_update_that_all_engines_died_of_waits_for_one_that_starts_anew():
    engines = Engines("a", "b")

    async def send(names: list[str]) -> WeightSyncResult:
        if not engines.num_waits:
            engines.dead = {"a", "b"}
            engines.sent.append(names)
            return WeightSyncResult(failures=dict.fromkeys(names, "died"), figures={})
        return await Engines.send(engines, names)

    engines.send = send  # type: ignore[method-assign]
    assert (await engines.bring()).num_out_of_service == 0
    assert (engines.num_waits, engines.sent) == (1, [["a", "b"]] * 2)


async def test_a_sending_that_fails_for_all_is_tried_again():
    engines = Engines("a")
    engines.send_failures = [WeightUpdateError("a rank has ended")]
    await engines.bring()
    assert engines.proven == [[], ["a"]]
    assert engines.in_service == {"a"}


async def test_a_group_that_broke_is_sent_to_without_the_culprit_who_then_has_a_try_alone():
    engines = Engines("a", "b", "c")
    engines.send_failures, engines.untried = [{"b": "hangs"}], [["a", "c"]]
    report = await engines.bring()
    assert engines.sent == [["a", "b", "c"], ["a", "c"], ["b"]]
    assert engines.proven == [[], ["a", "c"], ["b"]]
    assert report.num_out_of_service == 0
    assert engines.withdrawn == []


async def test_each_engine_that_breaks_the_group_leaves_it_and_the_last_ones_are_served():
    engines = Engines("a", "b", "c", "d")

    async def send(names: list[str]) -> WeightSyncResult:
        engines.dead = {"b"}
        return await Engines.send(engines, names)

    engines.send = send  # type: ignore[method-assign]
    engines.send_failures = [{"b": "died"}, {"c": "hangs"}, {}, {"c": "hangs"}]
    engines.untried = [["a", "c", "d"], ["a", "d"]]
    report = await engines.bring()
    assert engines.sent == [["a", "b", "c", "d"], ["a", "c", "d"], ["a", "d"], ["c"]]
    assert engines.withdrawn == ["b", "c"]
    assert engines.in_service == {"a", "d"}
    assert report.num_out_of_service == 2


async def test_a_group_that_breaks_by_nobodys_fault_is_not_tried_for_ever():
    engines = Engines("a", "b")
    engines.untried = [["a", "b"]] * 5
    with pytest.raises(WeightUpdateError, match="after 2 tries"):
        await engines.bring()
    assert engines.sent == [["a", "b"]] * 2


async def test_an_engine_that_serves_nothing_comes_after_the_others_and_has_one_try():
    engines = Engines("a", "b", "c")
    engines.in_service = {"a", "c"}
    engines.outcomes = {"b": ["logprobs differ", "logprobs differ"]}
    await engines.bring()
    assert engines.sent == [["a", "c"], ["b"]]
    assert engines.withdrawn == ["b"]


async def test_no_engine_in_service_is_an_error_with_the_reasons():
    engines = Engines("a")
    engines.outcomes = {"a": ["logprobs differ", "still wrong"]}
    with pytest.raises(WeightUpdateError, match=r"to version 0\.3 after 2 tries: .*still wrong"):
        await engines.bring()
