"""Calls of a user function shared out to nodes: who is asked, what a lost node costs, and that a
function's own faults are told as on the driver's node."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from reward.config import RewardTerm
from reward.plugins.call_figures import CallFigures
from reward.plugins.question import Question
from reward.plugins.runner import PluginRunner, Value
from reward.plugins.shipped import ShippedFunction
from reward.plugins.signature import Signature
from reward.plugins.spread import NodeLost, SpreadRunner
from tests.reward.plugins.user_rewards import ask, make_term
from wire.errors import ConfigError
from wire.types import Failure, FailureKind

SOURCE = """
import os, time

def compute_score(solution_str):
    if solution_str == "raises":
        raise KeyError("rubric")
    if solution_str == "hangs":
        time.sleep(600)
    if solution_str == "eats memory":
        hoard = []
        while True:
            hoard.append(bytearray(2**23))
            time.sleep(0.005)
    if solution_str == "is killed":
        os.kill(os.getpid(), 9)
    return len(solution_str)
"""
SIGNATURE = Signature(
    style="verl", is_async=False, takes_any=False, names=("solution_str",), required=()
)


class ScriptedNode:
    """A node that answers with a number when it is let, or is lost."""

    def __init__(self, name: str, value: float = 1.0, fault: str = "") -> None:
        self.name, self.value, self.fault = name, value, fault
        self.num_asked = self.num_at_once = self.most_at_once = 0
        self.go = asyncio.Event()
        self.go.set()

    async def load(self, function: ShippedFunction) -> Signature:
        if self.fault == "lost at the start":
            raise NodeLost("its process died")
        if self.fault == "refuses":
            raise ConfigError(f"on node {self.name}: there is no file")
        return SIGNATURE

    async def score(
        self, part: str, question: Question
    ) -> tuple[list[Value | Failure], CallFigures]:
        self.num_asked += 1
        self.num_at_once += 1
        self.most_at_once = max(self.most_at_once, self.num_at_once)
        try:
            await self.go.wait()
            if self.fault == "dies":
                raise NodeLost("its process died")
        finally:
            self.num_at_once -= 1
        values: list[Value | Failure] = [Value(value=self.value) for _ in question.traces]
        return values, CallFigures(latencies=[self.value], num_started=1)

    async def ping(self) -> None:
        if self.fault == "silent":
            await asyncio.Event().wait()


class NodeHere:
    """A node that runs functions as the actor does, in this process."""

    name = "here"

    async def load(self, function: ShippedFunction) -> Signature:
        self.runner = PluginRunner(function.term_here(), function.columns)
        await self.runner.start()
        assert self.runner.signature is not None
        return self.runner.signature

    async def score(
        self, part: str, question: Question
    ) -> tuple[list[Value | Failure], CallFigures]:
        return await self.runner.score(question), self.runner.figures.take()

    async def ping(self) -> None:
        return


@pytest.fixture
def term(tmp_path: Path) -> RewardTerm:
    file = tmp_path / "hostile.py"
    file.write_text(SOURCE)
    return make_term(f"{file}:compute_score", 2.0, memory_mb=160)


@asynccontextmanager
async def spread(
    term: RewardTerm, *nodes: Any, patience_s: float = 60.0
) -> AsyncIterator[SpreadRunner]:
    runner = SpreadRunner(term, None, nodes, patience_s=patience_s)
    try:
        await runner.start()
        yield runner
    finally:
        await runner.close()


async def turns() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_group_goes_to_the_least_busy_node_and_waits_where_all_are_full(
    term: RewardTerm,
) -> None:
    first, second = ScriptedNode("a"), ScriptedNode("b")
    first.go.clear()
    async with spread(term, first, second) as runner:
        held = asyncio.create_task(runner.score(ask("x")))
        await turns()
        assert (first.num_asked, second.num_asked) == (1, 0)
        for _ in range(3):
            await runner.score(ask("x"))
        assert (first.num_asked, second.num_asked) == (1, 3), "the first is busy"
        second.go.clear()
        more = [asyncio.create_task(runner.score(ask("x"))) for _ in range(6)]
        await turns()
        assert (first.num_at_once, second.num_at_once) == (2, 2), "a process each, and the next"
        first.go.set()
        second.go.set()
        assert await asyncio.gather(held, *more) == [[Value(value=1.0)]] * 7
        assert max(first.most_at_once, second.most_at_once) == 2


async def test_idle_nodes_take_turns(term: RewardTerm) -> None:
    nodes = [ScriptedNode(name) for name in "abc"]
    async with spread(term, *nodes) as runner:
        for _ in range(6):
            await runner.score(ask("x"))
    assert [node.num_asked for node in nodes] == [2, 2, 2]


async def test_a_group_of_a_node_that_dies_is_asked_of_another_which_gets_all_from_then_on(
    term: RewardTerm,
) -> None:
    dying, other = ScriptedNode("a", fault="dies"), ScriptedNode("b", value=2.0)
    dying.go.clear()
    async with spread(term, dying, other) as runner:
        groups = [asyncio.create_task(runner.score(ask("x", "y"))) for _ in range(8)]
        await turns()
        dying.go.set()
        assert await asyncio.gather(*groups) == [[Value(value=2.0)] * 2] * 8
        asked = dying.num_asked
        assert await runner.score(ask("x")) == [Value(value=2.0)]
    assert dying.num_asked == asked == 2


async def test_where_no_node_is_left_the_driver_scores(term: RewardTerm) -> None:
    async with spread(term, *[ScriptedNode(name, fault="dies") for name in "ab"]) as runner:
        assert await runner.score(ask("four", "fives")) == [Value(value=4.0), Value(value=5.0)]


async def test_a_group_that_two_nodes_are_lost_over_is_a_failure_and_harms_no_third(
    term: RewardTerm,
) -> None:
    nodes = [
        ScriptedNode(name, fault=fault) for name, fault in (("a", "dies"), ("b", "dies"), ("c", ""))
    ]
    async with spread(term, *nodes) as runner:
        lost = Failure(
            kind=FailureKind.REWARD,
            culprit="hostile",
            reason="nodes a and b were lost, one after the other, while they judged it",
        )
        assert await runner.score(ask("x", "y")) == [lost, lost]
        assert nodes[2].num_asked == 0
        assert await runner.score(ask("x")) == [Value(value=1.0)]


async def test_a_node_that_does_not_respond_is_lost_and_a_slow_function_is_waited_for(
    term: RewardTerm,
) -> None:
    silent, slow = ScriptedNode("a", fault="silent"), ScriptedNode("b", value=2.0)
    silent.go.clear()
    slow.go.clear()
    async with spread(term, silent, slow, patience_s=0.05) as runner:
        group = asyncio.create_task(runner.score(ask("x")))
        while not slow.num_asked:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # several times the patience
        assert not group.done()
        slow.go.set()
        assert await group == [Value(value=2.0)]


async def test_a_node_that_is_lost_at_the_start_is_done_without(term: RewardTerm) -> None:
    lost, other = ScriptedNode("a", fault="lost at the start"), ScriptedNode("b", value=2.0)
    async with spread(term, lost, other) as runner:
        assert runner.signature == SIGNATURE
        assert await runner.score(ask("x")) == [Value(value=2.0)]
    async with spread(term, lost) as runner:
        assert await runner.score(ask("four")) == [Value(value=4.0)]


async def test_a_node_that_cannot_load_the_function_ends_the_start(term: RewardTerm) -> None:
    with pytest.raises(ConfigError, match="on node b: there is no file"):
        async with spread(term, ScriptedNode("a"), ScriptedNode("b", fault="refuses")):
            pass


async def test_figures_are_those_of_all_nodes(term: RewardTerm) -> None:
    async with spread(term, ScriptedNode("a", 1.0), ScriptedNode("b", 2.0)) as runner:
        for _ in range(4):
            await runner.score(ask("x"))
        counts = {"num_started": 4.0, "num_split": 0.0, "num_lost": 0.0}
        figures = {**counts, "latency_p50_s": 1.0, "latency_p99_s": 2.0}
        assert runner.take_figures() == figures
        assert runner.take_figures() == dict.fromkeys(counts, 0.0)


async def test_a_functions_own_faults_are_the_failures_that_they_are_on_the_driver(
    term: RewardTerm,
) -> None:
    question = ask("four", "raises", "hangs", "eats memory", "is killed", "fives")
    node, here = NodeHere(), PluginRunner(term)
    async with spread(term, node) as runner:
        await here.start()
        try:
            there, on_driver = await asyncio.gather(runner.score(question), here.score(question))
        finally:
            await here.close()
            await node.runner.close()
    assert [told(outcome) for outcome in there] == [told(outcome) for outcome in on_driver]
    assert told(there[1]).startswith("reward hostile: KeyError('rubric') at")
    assert told(there[2]) == "reward hostile: no answer within # s; its processes were ended"
    assert told(there[3]) == "reward hostile: it held # MB, more than memory_mb=#"
    assert told(there[4]) == "reward hostile: its process ended with signal SIGKILL"
    assert (there[0], there[5]) == (Value(value=4.0), Value(value=5.0))


def told(outcome: Value | Failure) -> str:
    """An outcome as text, without its figures."""
    if isinstance(outcome, Failure):
        return re.sub(r"\d+", "#", f"{outcome.kind.value} {outcome.culprit}: {outcome.reason}")
    return str(outcome.value)
