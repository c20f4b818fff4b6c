"""When a training is validated, what is collected, and what is decided from it."""

import asyncio
from typing import Any

import pytest

from cluster.config.validation import ValidateConfig
from cluster.resume.checkpoints import KeepBest
from cluster.resume.validations import Validated
from cluster.stages.validation import Validation, restored_by
from wire.errors import TooManyFailures

NAME = "val/accuracy"


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, int, dict[str, float]]] = []

    def write(self, stage: str, step: int, values: dict[str, float]) -> None:
        self.lines.append((stage, step, dict(values)))


class Accuracy:
    """Gives the accuracies one after another, each when ``ready`` is set."""

    def __init__(self, *values: float) -> None:
        self.values, self.asked = list(values), list[int]()
        self.ready = asyncio.Event()
        self.ready.set()

    async def figures(self, step: int) -> dict[str, float]:
        self.asked.append(step)
        await self.ready.wait()
        return {NAME: self.values.pop(0), "val/nll": 1.0}


def make(
    validator: Any, log: Log | None = None, done: tuple[Validated, ...] = (), **settings: Any
) -> Validation:
    config = ValidateConfig(**{"every": 2} | settings)
    return Validation("g", config, validator, log or Log(), last_step=7, done=done)


async def test_figures_are_logged_when_they_are_collected_under_their_own_step():
    log, validator = Log(), Accuracy(0.5)
    validator.ready.clear()
    validation = make(validator, log)
    validation.start(2)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert validator.asked == [2]
    assert (validation.is_running, log.lines, validation.done) == (True, [], ())
    validator.ready.set()
    await asyncio.sleep(0)
    assert not log.lines, "they have come, and decide nothing yet"
    await validation.collect()
    ((stage, step, values),) = log.lines
    assert (stage, step, values[NAME]) == ("g", 2, 0.5)
    assert values["val/seconds"] >= 0
    assert validation.done == (Validated(step=2, figures={NAME: 0.5}),)
    await validation.collect()  # there is none any more


async def test_what_is_not_due_or_has_been_done_is_not_asked_again():
    validator = Accuracy(0.1, 0.2, 0.3)
    validation = make(validator, done=(Validated(step=2, figures={}),))
    for step in (0, 1, 2, 3, 4, 7):
        await validation.run(step)
    assert validator.asked == [0, 4, 7]


async def test_a_training_without_a_validator_is_never_due():
    validation = make(None, patience=1)
    assert not any(validation.is_due(step) for step in range(8))
    assert not validation.stopped
    assert validation.result(7, 7) == {}


async def test_it_stops_after_so_many_validations_without_a_gain_and_asks_no_more():
    validator = Accuracy(0.5, 0.6, 0.6, 0.1)
    validation = make(validator, patience=2, every=1)
    for step in range(4):
        assert not validation.stopped
        await validation.run(step)
    assert validation.stopped
    assert not validation.is_due(4)
    assert validation.result(4, 4)["stopped_early"] == {
        **{"step": 4, "metric": NAME, "best": 0.6, "best_step": 2, "patience": 2}
    }
    again = make(validator, patience=2, every=1, done=validation.done)
    assert again.stopped, "a resumed training decides the same"


async def test_figures_that_are_not_finite_are_logged_and_not_remembered():
    log = Log()
    validation = make(Accuracy(float("nan")), log)
    await validation.run(0)
    assert validation.done == (Validated(step=0, figures={}),)
    assert len(log.lines) == 1
    assert validation.best is None


async def test_a_validation_that_fails_is_raised_when_it_is_collected():
    class Failing:
        async def figures(self, step: int) -> dict[str, float]:
            raise TooManyFailures("all of them")

    validation = make(Failing())
    validation.start(0)
    with pytest.raises(TooManyFailures):
        await validation.collect()


async def test_a_training_that_ends_cancels_a_validation_that_nobody_collects():
    validator = Accuracy(0.5)
    validator.ready.clear()
    validation = make(validator)
    async with validation:
        validation.start(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert validator.asked == [0]
    assert not validation.is_running
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        ((0.1, 0.9, 0.5), {}, (7, [])),
        ((0.1, 0.9, 0.5), {"restore_best": True}, (2, [2])),
        ((0.9, 0.1, 0.5), {"restore_best": True}, (0, ["start"])),
        ((0.1, 0.2, 0.5), {"restore_best": True}, (7, [])),
    ],
)
async def test_the_best_weights_are_loaded_if_they_are_to_be(
    values: tuple[float, ...], settings: dict, expected: tuple[int, list]
):
    loaded: list[Any] = []

    class Saved:
        async def go_back(self, step: int) -> None:
            loaded.append(step)

    async def begin() -> None:
        loaded.append("start")

    checkpoints: Any = Saved()
    validation = make(Accuracy(*values), **settings)
    for step in (0, 2, 7):
        await validation.run(step)
    assert (await validation.restore_best(7, checkpoints, begin), loaded) == expected


def test_the_checkpoint_to_go_back_to_is_kept_by_the_metric():
    config = ValidateConfig(every=2, metric="val/nll", restore_best=True)
    assert restored_by(config) == KeepBest(count=1, metric="val/nll", mode="min")
    assert restored_by(ValidateConfig(every=2)).count == 0
    assert restored_by(ValidateConfig(restore_best=True)).count == 0
