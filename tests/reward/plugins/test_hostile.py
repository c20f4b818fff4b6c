"""Hostile user functions in real processes: each gives a typed failure that says what it did, its
neighbours in the group are scored, and so is the next group."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from reward.plugins.runner import PluginRunner
from tests.reward.plugins.user_rewards import make_term, values

_FILE = Path(__file__).with_name("hostile.py")
_SOON_S = 2.0

AT_ONCE = {
    "raises": "KeyError('rubric') at",
    "exits_politely": "SystemExit('enough')",
    "exits_at_once": "exit code 3",
    "interrupts": "KeyboardInterrupt",
    "cancels": "CancelledError",
    "recurses": "RecursionError",
    "segfaults": "SIGSEGV",
    "aborts": "SIGABRT",
    "is_nan": "returned nan, expected a finite number",
    "is_minus_infinity": "returned -inf",
    "is_too_large": "OverflowError",
    "is_text": "'1.0' (str)",
    "is_list": "(list), expected a number",
    "is_complex": "1j (complex)",
    "is_dict_without_score": "without 'score'; its keys: ['reward']",
    "is_dict_of_text": "'high' (str)",
    "is_without_repr": "no repr",
    "raises_without_repr": "its repr raises",
    "is_without_float": "no float",
    "eats_memory": "more than memory_mb=160",
    "eats_memory_in_a_child": "more than memory_mb=160",
    "asks_for_the_moon": "MemoryError",
    "forks_and_forks": "more than max_processes=8",
    "forks_without_end": "more than max_processes=8",
    "closes_every_file": "closed the runner's pipe",
    "scribbles_on_the_pipe": "wrote on the runner's pipe",
    "scribbles_an_endless_line": "wrote on the runner's pipe",
    "scribbles_another_index": "wrote on the runner's pipe",
    "scribbles_a_nan": "wrote on the runner's pipe",
    "breaks_json": "exit code 1",
    "kills_its_guard": "guard was ended",
    "prints_into_nothing": "OSError",
}
LATE = (*("sleeps", "spins", "ignores_signals", "stops_itself", "floods_its_output", "deadlocks"),)


def started(timeout_s: float) -> Iterator[PluginRunner]:
    function = f"{_FILE}:compute_score"
    runner = PluginRunner(make_term(function, timeout_s, memory_mb=160, max_processes=8))
    asyncio.run(runner.start())
    yield runner
    asyncio.run(runner.close())


@pytest.fixture(scope="module")
def patient() -> Iterator[PluginRunner]:
    yield from started(300.0)


@pytest.fixture(scope="module")
def hasty() -> Iterator[PluginRunner]:
    yield from started(_SOON_S)


@pytest.mark.parametrize("way", AT_ONCE)
def test_a_hostile_function_is_a_typed_failure_and_hurts_nobody_else(
    patient: PluginRunner, way: str
) -> None:
    before, reason, after = asyncio.run(values(patient, "four", way, "fives"))
    assert AT_ONCE[way] in str(reason)
    assert (before, after) == (4.0, 5.0)
    assert asyncio.run(values(patient, "next")) == [4.0]


@pytest.mark.parametrize("way", LATE)
def test_a_function_that_never_answers_is_killed_on_time_and_replaced(
    hasty: PluginRunner, way: str
) -> None:
    before, reason, after = asyncio.run(values(hasty, "four", way, "fives"))
    assert f"no answer within {_SOON_S:g} s" in str(reason)
    assert (before, after) == (4.0, 5.0)
    assert asyncio.run(values(hasty, "next")) == [4.0]
