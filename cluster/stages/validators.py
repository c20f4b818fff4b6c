"""Validators by kind of stage: what is asked about the val clips, and which figures come of it.

    answers that the policy writes  (GRPO, cold start)      clips -> engines -> rewards -> figures
    targets: the teacher's traces   (cold start)            rows -> learner -> nll
    labels by their codes           (label SFT, verdict)    prompts -> learner -> figures

The clips are the same in every validation. Written traces are archived, as all are; their purpose
keeps them out of training, of its figures and of the calibration.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from statistics import fmean

import numpy as np

from calibrate.metrics import evaluate
from calibrate.traces import TraceSet, VerdictExamples
from calibrate.verdict import label_predictions, probabilities_from_logprobs
from calibrate.verdict import training_rows as verdict_examples
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.sft import SftStage
from cluster.config.validation import PREFIX, ValidateConfig
from cluster.inputs.validation_clips import validation_clips
from cluster.session import Session
from cluster.stages.answer_figures import answer_figures, shared_figures
from cluster.stages.evaluation import readable
from cluster.stages.failure_limits import refuse_failures
from cluster.stages.grpo.training_groups import OneGroupWriter
from cluster.stages.label_codes import LabelCodes, ScoringLearner
from cluster.stages.stage import StageRun
from cluster.stages.validation import Validator
from learner.shared_prefix.rows import Row, supervised_row
from rollout.engine import Sampling
from rollout.prompt import trace_target
from wire.labels import LabelSet
from wire.types import Purpose, Sample, TraceGroup, stable_seed


class ValidationTraces:
    """Writes one greedy trace per val clip, as evaluation asks for them."""

    def __init__(
        self,
        name: str,
        writer: OneGroupWriter,
        samples: Sequence[Sample],
        *,
        temperature: float,
        max_tokens: int,
        seed: int,
        max_failure_frac: float,
    ) -> None:
        """``name``: of the stage; ``seed``: the recipe's."""
        self._name, self._writer, self._samples = name, writer, samples
        self._temperature, self._max_tokens, self._seed = temperature, max_tokens, seed
        self._max_failure_frac = max_failure_frac

    async def write(self, step: int) -> list[TraceGroup]:
        """Write the groups, in the order of the clips, all by the same weights. Raises
        TooManyFailures."""
        groups = await asyncio.gather(
            *[self._group(step, number, sample) for number, sample in enumerate(self._samples)]
        )
        refuse_failures(groups, self._max_failure_frac)
        versions = {group.policy_version for group in groups}
        assert len(versions) == 1, f"one validation of several policies: {versions}"
        return groups

    def _id(self, step: int, sample: Sample) -> str:
        return f"{self._name}/{Purpose.VALIDATION}/{step:06d}/{sample.id}"

    async def _group(self, step: int, number: int, sample: Sample) -> TraceGroup:
        sampling = Sampling(
            n=1,
            temperature=self._temperature,
            max_tokens=self._max_tokens,
            seed=stable_seed("evaluate", self._seed, sample.id),
            turn=number,
        )
        return await self._writer.write(
            sample, sampling, Purpose.VALIDATION, self._id(step, sample)
        )


class AnswerValidator:
    """Validates a policy in the engines by the traces that it writes."""

    def __init__(self, traces: ValidationTraces, labels: LabelSet) -> None:
        self._traces, self._labels = traces, labels

    async def figures(self, step: int) -> dict[str, float]:
        """Metrics of answers, rewards and lengths."""
        return answer_figures(await self._traces.write(step), self._labels)


class SupervisedValidator:
    """Validates a policy that is fine-tuned on traces: by val targets, where there are some, and by
    the traces that it writes once the engines have its weights."""

    def __init__(
        self,
        rows: Sequence[Row],
        learner: ScoringLearner,
        publish: Callable[[int], Awaitable[object]],
        answers: Validator,
    ) -> None:
        """``rows``: of the val clips with a teacher's trace; ``publish``: sends the learner's
        weights to the engines, as those after an update."""
        self._rows, self._learner = rows, learner
        self._publish, self._answers = publish, answers

    async def figures(self, step: int) -> dict[str, float]:
        """Metrics of targets and answers."""
        nll = {}
        if self._rows:
            logprobs = await self._learner.logprobs(self._rows)
            nll[f"{PREFIX}nll"] = -fmean(p for row in logprobs for tokens in row for p in tokens)
        await self._publish(step)
        return {**nll, **await self._answers.figures(step)}


class LabelValidator:
    """Validates a policy in the learner by the labels that it gives, scored by their codes."""

    def __init__(
        self,
        samples: Sequence[Sample],
        examples: Callable[[], Awaitable[VerdictExamples]],
        codes: LabelCodes,
        labels: Sequence[str],
    ) -> None:
        """``examples``: those of ``samples`` that can be asked, made once, when they are first
        needed; a sample without one counts as wrong."""
        self._samples, self._make, self._codes, self._labels = samples, examples, codes, labels
        self._examples: VerdictExamples | None = None

    async def figures(self, step: int) -> dict[str, float]:
        """Metrics of the most probable labels."""
        if self._examples is None:
            self._examples = await self._make()
        asked = self._examples
        logprobs = await self._codes.logprobs(asked)
        probabilities = probabilities_from_logprobs(logprobs)
        predictions = list(label_predictions(self._samples, asked, probabilities, self._labels))
        true = [self._labels.index(example.label) for example in asked]
        num_tokens = sum(self._codes.num_tokens(example.label) for example in asked)
        nll = -float(logprobs[np.arange(len(asked)), true].sum()) / num_tokens
        figures = {**shared_figures(evaluate(predictions, self._labels)), "nll": nll}
        return {PREFIX + name: value for name, value in figures.items()}


def grpo_validator(session: Session, run: StageRun) -> Validator | None:
    """The validator of a GRPO stage; None: it is not validated."""
    config = run.of(GrpoStage).validation
    return _answers(session, run.name, _clips(session, config)) if config.is_on else None


async def sft_validator(session: Session, run: StageRun) -> Validator | None:
    """The validator of a supervised stage; None: it is not validated."""
    stage = run.of(SftStage)
    if not stage.validation.is_on:
        return None
    samples = _clips(session, stage.validation)
    if stage.asks_labels:

        async def asked() -> VerdictExamples:
            return VerdictExamples(readable(samples, session.quarantine), None)

        return _labels(session, samples, asked)
    taught = [sample for sample in samples if sample.trace]
    rows = [
        supervised_row(prompt, sample.video, session.renderer.target(trace_target(sample)))
        for sample, prompt in (await session.prompts(taught) if taught else ())
    ]

    async def publish(step: int) -> None:
        await session.publish(session.config.chain.validated_step(run.name, step))

    return SupervisedValidator(rows, session.learner, publish, _answers(session, run.name, samples))


def verdict_validator(
    config: ValidateConfig, val: TraceSet, codes: LabelCodes, labels: Sequence[str], seed: int
) -> Validator | None:
    """The validator of a verdict, which reads the policy's trace of each val clip; None: it is not
    validated. ``seed``: the recipe's."""
    if not config.is_on:
        return None
    samples = validation_clips(val.samples, config.num_clips, seed)
    traces = val.of_samples({sample.id for sample in samples})

    async def asked() -> VerdictExamples:
        return verdict_examples(traces, labels)

    return LabelValidator(samples, asked, codes, labels)


def _clips(session: Session, config: ValidateConfig) -> list[Sample]:
    return validation_clips(session.data.of(config.split), config.num_clips, session.config.seed)


def _labels(
    session: Session,
    samples: Sequence[Sample],
    examples: Callable[[], Awaitable[VerdictExamples]],
) -> Validator:
    names = session.config.label_set.names
    return LabelValidator(samples, examples, LabelCodes.of(session), names)


def _answers(session: Session, name: str, samples: Sequence[Sample]) -> Validator:
    return AnswerValidator(_traces(session, name, samples), session.config.label_set)


def _traces(
    session: Session,
    name: str,
    samples: Sequence[Sample],
) -> ValidationTraces:
    config = session.config
    return ValidationTraces(
        name,
        session.writer,
        samples,
        temperature=config.evaluate.temperature,
        max_tokens=config.rollout.max_response_length,
        seed=config.seed,
        max_failure_frac=config.reward.max_failure_frac,
    )
