"""Supervised fine-tuning through the learner: the cold start, and the verdict classifier.

rows -> epochs of shuffled batches -> updates, validations and checkpoints in between
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from calibrate.protocols import ValidationCurve
from cluster.config.guards import GuardsConfig
from cluster.config.stages import KEEP_LAST
from cluster.config.validation import PREFIX, ValidateConfig
from cluster.driver.progress import progress_bar
from cluster.metrics.decoded_clips import DecodedClips
from cluster.metrics.learning_guards import LearningGuards
from cluster.metrics.metrics_log import MetricsLog
from cluster.resume.checkpoints import Checkpoints
from cluster.resume.loop_state import LoopState
from cluster.session import Session
from cluster.stages.spilled_rows import longest_of
from cluster.stages.validation import Validation, Validator, restored_by
from learner.config import GrpoLossConfig, LoraConfig, OptimConfig
from learner.export import AdapterFacts
from learner.shared_prefix.rows import Row
from learner.worker import Objective
from rollout.sampler import epoch_order

T = TypeVar("T")


class TrainingRun(Protocol):
    """Starts trainings, and tries their largest batch; cluster/session.py implements it."""

    async def start_training(
        self,
        model_dir: Path,
        optim: OptimConfig,
        loss: GrpoLossConfig | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        """Load a model into the learner, with a fresh optimiser."""
        ...

    async def preflight(
        self, name: str, *, prompt: int, response: int, group_size: int, groups_per_update: int
    ) -> None:
        """Try a training's largest batch. Raises UserError if it does not fit."""
        ...


class UpdatingLearner(Protocol):
    """Updates the model; cluster/actors/learner_group.py implements it."""

    async def train_step(
        self, rows: Sequence[Row], objective: Objective, learning_rate: float
    ) -> dict[str, float]:
        """One update. Returns metrics."""
        ...

    async def update(
        self, do: Callable[[], Awaitable[T]], again: Callable[[], Awaitable[object]] | None = None
    ) -> T:
        """Calls that are one update together, done again where a lost rank is healed."""
        ...

    def prepare(self, rows: Sequence[Row]) -> None:
        """Let the clips of the next update be made ready. Returns at once."""
        ...

    async def adapter_facts(self) -> AdapterFacts | None:
        """Size of the adapter, and the digest of the model that it adds to; None in full
        training."""
        ...


class SupervisedTrainer:
    """Fine-tunes a model on rows, for a stage or arm of this name; the result stays in the
    learner."""

    def __init__(
        self,
        name: str,
        run: TrainingRun,
        learner: UpdatingLearner,
        checkpoints: Checkpoints,
        metrics: MetricsLog,
        *,
        seed: int,
        limits: GuardsConfig,
        validate: ValidateConfig,
        validator: Validator | None = None,
        decoded_clips: DecodedClips | None = None,
    ) -> None:
        """``seed``: the recipe's, for the order of the rows; ``validator``: None, where the
        training is not validated; ``decoded_clips``: for the metrics of the first step, since the
        rows are made before it."""
        self._name, self._run, self._learner = name, run, learner
        self._decoded_clips = decoded_clips
        self._checkpoints, self._metrics, self._seed = checkpoints, metrics, seed
        self._limits = limits
        self._validate, self._validator = validate, validator
        self.validated: dict[str, Any] = {}
        """What done.json says of the validations, after the training."""
        self.curve: ValidationCurve | None = None
        """Their values of ``validate.metric``, after the training; None: not validated."""
        self.adapted: dict[str, Any] = {}
        """What done.json says of the adapter, after the training; nothing in full training."""

    @classmethod
    def of(
        cls,
        session: Session,
        name: str,
        validate: ValidateConfig | None = None,
        validator: Validator | None = None,
    ) -> Self:
        """With the learner, checkpoints and metrics of a run."""
        validate = validate or ValidateConfig()
        return cls(
            name,
            session,
            session.learner,
            session.checkpoints(name, KEEP_LAST, [restored_by(validate)]),
            session.metrics,
            seed=session.config.seed,
            limits=session.config.guards,
            validate=validate,
            validator=validator,
            decoded_clips=session.decoded_clips,
        )

    async def train(
        self,
        model_dir: Path,
        rows: Sequence[Row],
        *,
        epochs: int,
        batch_size: int,
        optim: OptimConfig,
        save_every: int | None = None,
        lora: LoraConfig | None = None,
    ) -> int:
        """Fine-tune ``model_dir``, from the last checkpoint on, on ``rows``, read batch by batch.
        A checkpoint every ``save_every`` updates, else after each epoch. ``lora``: of this training
        alone. Returns the number of updates: fewer, if validation has stopped it early."""
        begin = partial(self._run.start_training, model_dir, optim, lora=lora)
        await begin()
        before = await self._learner.adapter_facts()
        num_steps = num_updates(len(rows), epochs, batch_size)
        batches_per_epoch = num_steps // epochs
        state = await self._checkpoints.resume()
        done = began = state.step
        validation = self._validation(num_steps, state)
        guards = LearningGuards(self._name, self._limits, state.learning, num_updates=num_steps)
        batches = _Batches(rows, batch_size, self._seed)
        if done < num_steps:
            self._learner.prepare(batches.at(done))
            await self._preflight(rows, batch_size)
        await validation.run(done)
        with progress_bar(self._name, num_steps) as bar:
            bar.resume(done)
            while done < num_steps and not validation.stopped:
                rate = optim.learning_rate_at(done, num_steps)
                if done + 1 < num_steps:
                    self._learner.prepare(batches.at(done + 1))
                figures = await self._learner.update(partial(self._step, batches, done, rate))
                if done == began and self._decoded_clips is not None:
                    figures |= await self._decoded_clips.new()
                done += 1
                guards.observe_update(figures)
                self._metrics.write(self._name, done, figures | guards.warn(figures))
                guards.refuse(figures)
                bar.advance(note=f"nll {figures['nll']:.3f}")
                kept = validation.is_due(done) and self._validate.restore_best
                await validation.run(done)
                is_last = done == num_steps or validation.stopped
                if kept or is_last or done % (save_every or batches_per_epoch) == 0:
                    state = _state(done, len(rows), batches_per_epoch, batch_size)
                    await self._checkpoints.save(
                        replace(state, learning=guards.state, validations=validation.done)
                    )
        guards.refuse({}, is_last=True)
        self.adapted = _adapted(before, await self._learner.adapter_facts())
        left = await validation.restore_best(done, self._checkpoints, begin)
        self.validated, self.curve = validation.result(done, left), _curve(validation)
        return done

    async def _step(self, batches: "_Batches", done: int, rate: float) -> dict[str, float]:
        return await self._learner.train_step(batches.at(done), "supervised", rate)

    def _validation(self, last_step: int, state: LoopState) -> Validation:
        return Validation(
            self._name,
            self._validate,
            self._validator,
            self._metrics,
            last_step=last_step,
            done=state.validations,
        )

    async def _preflight(self, rows: Sequence[Row], batch_size: int) -> None:
        longest = longest_of(rows)
        await self._run.preflight(
            self._name,
            prompt=len(longest.prompt.token_ids),
            response=len(longest.responses[0].token_ids),
            group_size=1,
            groups_per_update=min(batch_size, len(rows)),
        )


class _Batches:
    """The batches of a training, by update: each epoch has all rows, in an order of its own."""

    def __init__(self, rows: Sequence[Row], batch_size: int, seed: int) -> None:
        self._rows, self._size = rows, batch_size
        self._per_epoch = num_updates(len(rows), 1, batch_size)
        self._order_of = lru_cache(maxsize=2)(partial(epoch_order, len(rows), seed))

    def at(self, step: int) -> list[Row]:
        """The batch of update ``step``, counted from 0."""
        epoch, number = divmod(step, self._per_epoch)
        order = self._order_of(epoch)
        return [self._rows[i] for i in order[number * self._size : (number + 1) * self._size]]


def _adapted(before: AdapterFacts | None, after: AdapterFacts | None) -> dict[str, Any]:
    """Part of done.json about an adapter: its share of all numbers, and digests of the model that
    it adds to, before and after. Raises RuntimeError if that has changed."""
    if before is None or after is None:
        return {}
    if before.base_digest != after.base_digest:
        raise RuntimeError(
            f"the training of an adapter has changed the model itself: digest {before.base_digest} "
            f"before, {after.base_digest} after; this is a fault of ours, please report it"
        )
    return {
        "lora": {
            "num_trained": after.num_trained,
            "num_frozen": after.num_frozen,
            "trained_frac": after.num_trained / (after.num_trained + after.num_frozen),
            "base_digest_before": before.base_digest,
            "base_digest_after": after.base_digest,
        }
    }


def _curve(validation: Validation) -> ValidationCurve | None:
    metric = validation.metric
    known = [(one.step, one.figures[metric]) for one in validation.done if metric in one.figures]
    if not known:
        return None
    steps, values = zip(*known, strict=True)
    return ValidationCurve(measure=metric.removeprefix(PREFIX), steps=steps, values=values)


def _state(step: int, num_rows: int, batches_per_epoch: int, batch_size: int) -> LoopState:
    epochs, batches = divmod(step, batches_per_epoch)
    return LoopState(step=step, next_index=epochs * num_rows + batches * batch_size)


def num_updates(num_rows: int, epochs: int, batch_size: int) -> int:
    """Number of updates of a training; the last batch of an epoch may be smaller."""
    return epochs * -(-num_rows // batch_size)
