"""Clips that wait for their hidden states go through the model together, whoever stops waiting.

The states themselves are held against the learner's in test_open.py.
"""

import asyncio
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.classify.hidden_states import HeadSource
from wire.errors import GenerationError


class Reader(HeadSource):
    """Reads numbers for clips, once it is let go; keeps the batches."""

    def __init__(self) -> None:
        model: Any = SimpleNamespace(requires_grad_=lambda _: model, eval=lambda: model)
        model.to = lambda device: model
        super().__init__(None, model, None, "cpu")  # type: ignore[arg-type]
        self.batches: list[list[int]] = []
        self.go, self.fails = threading.Event(), False

    def _logprobs(self, answered: Sequence[Any]) -> np.ndarray:
        self.batches.append(list(answered))
        self.go.wait(10)
        if self.fails:
            raise RuntimeError("out of memory")
        return np.array([[float(one)] for one in answered])


async def ask(reader: Reader, count: int) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(reader.ask(number)) for number in range(count)]  # type: ignore
    while not reader.batches:
        await asyncio.sleep(0.001)
    return tasks


async def test_those_that_wait_are_read_together() -> None:
    reader = Reader()
    tasks = await ask(reader, 20)
    reader.go.set()
    scores = await asyncio.gather(*tasks)
    assert [float(one.logprobs[0]) for one in scores] == list(range(20))
    assert [len(batch) for batch in reader.batches] == [1, 16, 3], "the first waits for nobody"


async def test_one_who_stops_waiting_takes_nobody_along() -> None:
    reader = Reader()
    tasks = await ask(reader, 3)
    tasks[0].cancel()
    reader.go.set()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    scores = await asyncio.wait_for(asyncio.gather(*tasks[1:]), 10)
    assert [float(one.logprobs[0]) for one in scores] == [1, 2]
    assert reader.batches[1:] == [[1, 2]]


async def test_a_model_that_fails_fails_those_of_its_batch() -> None:
    reader = Reader()
    reader.fails = True
    tasks = await ask(reader, 2)
    reader.go.set()
    for task in tasks:
        with pytest.raises(GenerationError, match="no hidden states: out of memory"):
            await task
