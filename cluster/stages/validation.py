"""Validation of a training: asks for figures when a step is due, logs them, decides on an early
stop, and brings back the best weights.

    step due -> Validator -> figures -> metrics.jsonl, Validated -> stop? best?

A training that goes on meanwhile (GRPO) starts a validation and collects it before the weights that
it is asked of are replaced; others run it. What a training decides depends on collected figures
alone, never on when they came.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, Self

from cluster.config.validation import PREFIX, ValidateConfig
from cluster.driver.progress import console
from cluster.resume.checkpoints import Checkpoints, KeepBest
from cluster.resume.validations import Best, Validated, best_of_validations, num_without_gain
from cluster.stages.trace_writer import FigureLog


class Validator(Protocol):
    """Measures the present weights of a training on its val clips; one per kind of stage
    (cluster/stages/validators.py)."""

    async def figures(self, step: int) -> dict[str, float]:
        """Metrics ``val/...`` of the weights after ``step``; 0: those that training starts from."""
        ...


class Validation:
    """Validations of one training, so far and to come."""

    def __init__(
        self,
        name: str,
        config: ValidateConfig,
        validator: Validator | None,
        log: FigureLog,
        *,
        last_step: int,
        done: Sequence[Validated] = (),
        also: str = "",
    ) -> None:
        """``name``: of the stage; ``validator``: None where nothing is validated; ``done``: what
        the checkpoint remembers; ``also``: a metric that a checkpoint remembers beside
        ``validate.metric``."""
        self._name, self._config, self._log = name, config, log
        self._validator = validator if config.is_on else None
        self._last_step = last_step
        self._remembered = {config.metric, also}
        self._pending: tuple[int, asyncio.Task[dict[str, float]]] | None = None
        self.done = tuple(done)
        """Validations whose figures are known, for the checkpoint."""
        if self.stopped:
            self._tell_of_stop()

    def is_due(self, step: int) -> bool:
        """Whether the weights after ``step`` are to be validated, and have not been."""
        known = any(one.step == step for one in self.done)
        due = self._validator is not None and self._config.is_due(step, self._last_step)
        return due and not known and not self.stopped

    @property
    def metric(self) -> str:
        """The metric by which the best weights are chosen."""
        return self._config.metric

    @property
    def is_running(self) -> bool:
        """Whether a validation was started and its figures have not been collected."""
        return self._pending is not None

    @property
    def stopped(self) -> bool:
        """Whether the training ends early: too many validations in a row without a gain."""
        patience = self._config.patience
        if self._validator is None or patience is None:
            return False
        return num_without_gain(self.done, self._config) >= patience

    @property
    def best(self) -> Best | None:
        """The best validation so far."""
        return best_of_validations(self.done, self._config.metric, self._config.best_mode)

    async def run(self, step: int) -> None:
        """Validate the present weights if they are due, and wait for the figures."""
        if self.is_due(step):
            self._add(step, await self._figures(step))

    def start(self, step: int) -> None:
        """Validate the present weights if they are due, while the caller goes on; it calls
        :meth:`collect` before it replaces them."""
        if self.is_due(step):
            self._pending = step, asyncio.create_task(self._figures(step))

    async def collect(self) -> None:
        """Wait for the validation that was started, if any."""
        if self._pending is not None:
            step, task = self._pending
            self._pending = None
            self._add(step, await task)

    async def restore_best(
        self, step: int, checkpoints: Checkpoints, begin: Callable[[], Awaitable[None]]
    ) -> int:
        """With ``restore_best``, bring the best weights back into the learner. ``step``: of those
        that it holds; ``begin``: loads the weights that the training started from. Returns the step
        of the weights that the learner then holds."""
        best = self.best
        if not self._config.restore_best or best is None or best.step == step:
            return step
        console.print(
            f"{self._name}: back to step {best.step}, {self._config.metric} {best.value:.4g}"
        )
        if best.step:
            await checkpoints.go_back(best.step)
        else:
            await begin()
        return best.step

    def result(self, step: int, left_step: int) -> dict[str, Any]:
        """What done.json says of the validations. ``step``: the last one trained; ``left_step``:
        that of the weights which the stage leaves."""
        best, config = self.best, self._config
        if self._validator is None or best is None:
            return {}
        values = [one.figures.get(config.metric) for one in self.done]
        about = {"metric": config.metric, "best": best.value, "best_step": best.step}
        stopped = {"step": step, **about, "patience": config.patience} if self.stopped else None
        return {
            "validation": {
                **about,
                "first": values[0],
                "last": values[-1],
                "num_validations": len(values),
                "left_step": left_step,
            },
            **({"stopped_early": stopped} if stopped else {}),
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel a validation that nobody will collect."""
        if self._pending is not None:
            task = self._pending[1]
            self._pending = None
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    async def _figures(self, step: int) -> dict[str, float]:
        assert self._validator is not None, "is_due comes first"
        start = time.perf_counter()
        figures = await self._validator.figures(step)
        return {**figures, f"{PREFIX}seconds": time.perf_counter() - start}

    def _add(self, step: int, figures: Mapping[str, float]) -> None:
        self._log.write(self._name, step, figures)
        kept = {
            name: value
            for name, value in figures.items()
            if name in self._remembered and math.isfinite(value)
        }
        self.done = (*self.done, Validated(step=step, figures=kept))
        if self.stopped:
            self._tell_of_stop()

    def _tell_of_stop(self) -> None:
        metric, best = self._config.metric, self.best
        than = "" if best is None else f" than {best.value:.4g} (step {best.step})"
        console.print(
            f"{self._name}: stops early: no better {metric}{than} in {self._config.patience} "
            "validations (validate.patience)"
        )


def restored_by(config: ValidateConfig) -> KeepBest:
    """The checkpoint that must be kept to bring the best weights back, if they are to be."""
    count = int(config.is_on and config.restore_best)
    return KeepBest(count=count, metric=config.metric, mode=config.best_mode)
