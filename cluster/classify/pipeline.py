"""Pipeline of a classifier in use: a clip -> trace -> label logprobs -> probabilities -> decision.

    clip (cache) -> trace prompt -> policy, near-greedy as it was measured -> trace
                 -> what each source says (cluster/classify/sources.py)
                 -> Evidence                                or a typed failure in its place
                 -> Calibration -> decision -> Row

A command wants rows; a service wants evidence, and decides elsewhere. Many clips are in flight at a
time, so that the engines batch them; their number bounds memory. Knows no engine's making
(cluster/classify/open.py), no command line and no event loop but the caller's.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from calibrate.calibration import Calibration
from calibrate.calibrator import Source
from calibrate.decision import Evidence, decide_from
from calibrate.traces import is_parsed
from cluster.classify.clip_memory import ClipMemory
from cluster.classify.inputs import truth_of
from cluster.classify.rows import Controlled, Row, Versions
from cluster.classify.sources import AnsweredClip, LabelSource
from cluster.classify.turns import Turns
from rollout.engine import AnsweringEngine, Sampling
from rollout.prompt_inputs import PromptInputs
from video.address import View, with_view
from video.processor import ProcessedClip
from wire.errors import ClipError, DataError, DeadlineExceeded, GenerationError
from wire.labels import LabelSet
from wire.token_arrays import Logprobs, TokenIds
from wire.types import (
    Completion,
    Failure,
    FailureKind,
    PolicyVersion,
    Prompt,
    Sample,
    stable_seed,
)

_ENGINE = "engine"


class TraceObserver(Protocol):
    """Sees each served trace, and may have decisions reviewed: a monitor of shift."""

    def observe(self, sample: Sample, evidence: Evidence) -> str | None:
        """Take note of a trace, in the order in which clips were asked about: in that in which they
        end, short traces would come first. Words of an alarm that stands; then the decision is for
        review."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """What a classifier answers with."""

    engine: AnsweringEngine
    """Of the policy."""
    engines: tuple[AnsweringEngine, ...]
    """All, that of the policy among them."""
    inputs: PromptInputs
    sources: Mapping[Source, LabelSource]
    """Those that the calibrator reads."""
    labels: LabelSet
    calibration: Calibration
    sampling: Sampling
    """Of the one trace per clip; its seed is the classifier's."""
    policy: PolicyVersion
    versions: Versions


class Pipeline:
    """A classifier in use. Safe to call for many clips at a time, from one event loop."""

    def __init__(
        self,
        answering: Answering,
        *,
        in_flight: int,
        clip_bytes: int = 4 * 2**30,
        observer: TraceObserver | None = None,
    ) -> None:
        """``in_flight``: clips that are decoded or answered at a time by :meth:`classify_all`, at
        most; ``clip_bytes``: memory that they may take, about."""
        self._answering, self._in_flight = answering, in_flight
        self._memory = ClipMemory(clip_bytes)
        self._observer, self._turns = observer, Turns()

    async def classify_all(
        self, samples: Iterable[Sample], control: View | None = None
    ) -> AsyncGenerator[Row, None]:
        """Rows in the order of the samples, each as soon as it and those before it are ready.
        Raises GenerationError if an engine's process has ended."""
        tasks: deque[asyncio.Task[Row]] = deque()
        left, loop = iter(samples), asyncio.get_running_loop()
        # a thread of its own: a folder is read while all others decode
        reader = ThreadPoolExecutor(1, thread_name_prefix="list-clips")
        try:
            while (sample := await loop.run_in_executor(reader, next, left, None)) is not None:
                tasks.append(asyncio.create_task(self.classify(sample, control)))
                if len(tasks) >= self._in_flight:
                    yield await tasks.popleft()
            while tasks:
                yield await tasks.popleft()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            reader.shutdown(wait=False)

    async def classify(self, sample: Sample, control: View | None = None) -> Row:
        """The row of one clip; a bad clip or a request that failed is a row with its failure.
        ``control``: also decide about this view of the clip, and compare.

        Raises GenerationError if an engine's process has ended.
        """
        start, turn = time.perf_counter(), self._turns.take()
        try:
            row = await self._with_control(sample, control, turn)
        finally:
            self._turns.end(turn)
        return replace(row, seconds=time.perf_counter() - start)

    async def _with_control(self, sample: Sample, control: View | None, turn: int) -> Row:
        if control is None:
            return await self._row(sample, turn)
        try:
            shown = with_view(sample, control)
        except ClipError:
            shown = sample  # whose own row says what is wrong with it
        row, other = await asyncio.gather(self._row(sample, turn), self._row(shown, None))
        return replace(row, control=_compared(row, other, control))

    async def evidence(self, sample: Sample, view: View | None = None) -> Evidence | Failure:
        """Evidence about a clip, or about a view of it; a bad clip or a request that failed is a
        failure. Raises GenerationError if an engine's process has ended."""
        try:
            shown = sample if view is None else with_view(sample, view)
        except ClipError as error:
            return Failure(kind=FailureKind.DECODE, culprit=sample.video, reason=str(error))
        return (await self._asked(shown))[1]

    @property
    def is_alive(self) -> bool:
        """False once the process of one of its engines has ended."""
        return all(engine.is_alive for engine in self._answering.engines)

    async def _row(self, sample: Sample, turn: int | None) -> Row:
        """``turn``: in which its trace is observed; None: it is no served one."""
        frames, evidence = await self._asked(sample)
        row = Row(
            id=sample.id,
            video=sample.video,
            versions=self._answering.versions,
            truth=truth_of(sample),
            frames=frames,
        )
        if isinstance(evidence, Failure):
            return replace(row, failure=evidence)
        alarm = None
        try:
            if turn is not None and self._observer is not None:
                await self._turns.comes(turn)
                alarm = self._observer.observe(sample, evidence)
            decision = decide_from(evidence, self._answering.calibration, alarm=alarm)
        except DataError as error:  # what an engine said is no row of logprobs
            return replace(row, failure=_failure(FailureKind.PROMPT, sample.id, error))
        return replace(
            row,
            trace=evidence.trace,
            label=decision.label,
            probabilities=decision.probabilities,
            prediction_set=decision.prediction_set,
            decision=decision.action,
            reasons=decision.reasons,
            votes=None if evidence.votes is None else dict(evidence.votes),
        )

    async def _asked(self, sample: Sample) -> tuple[tuple[int, ...], Evidence | Failure]:
        """Numbers of the frames that were shown, as far as it came to that, and the evidence."""
        frames: tuple[int, ...] = ()
        try:
            async with self._memory.place() as place:
                model_input = await self._answering.inputs.of(sample, "trace")
                if isinstance(model_input, Failure):
                    return frames, model_input
                prompt, clip = model_input
                place.take(clip.pixel_values.nbytes)
                frames = prompt.frame_indices
                return frames, await self._evidence(sample, prompt, clip)
        except DataError as error:  # a column that the prompt shows is not there
            return frames, _failure(FailureKind.PROMPT, sample.id, error)
        except (GenerationError, DeadlineExceeded) as error:
            if not self.is_alive:
                raise GenerationError(f"an engine's process has ended: {error}") from error
            return frames, _failure(FailureKind.GENERATION, _ENGINE, error)

    async def _evidence(self, sample: Sample, prompt: Prompt, clip: ProcessedClip) -> Evidence:
        sources = self._answering.sources
        trace = await self._trace(sample, prompt, clip)
        answered = AnsweredClip(sample=sample, clip=clip, prompt=prompt, trace=trace)
        scores = await asyncio.gather(*[source.ask(answered) for source in sources.values()])
        return Evidence(
            trace=trace.text,
            parsed=is_parsed(trace.text, self._answering.labels),
            logprobs={
                name: tuple(one.logprobs.tolist())
                for name, one in zip(sources, scores, strict=True)
            },
            votes=next((one.votes for one in scores if one.votes is not None), None),
            frames=prompt.frame_indices,
            trace_logprobs=tuple(trace.logprobs),
            video_hash=prompt.video_hash,
        )

    async def _trace(self, sample: Sample, prompt: Prompt, clip: ProcessedClip) -> Completion:
        answering = self._answering
        # a clip's seed is that of its evaluation in a run
        seed = stable_seed("evaluate", answering.sampling.seed, sample.id)
        sampling = replace(answering.sampling, seed=seed)
        (answer,) = (await answering.engine.generate(prompt, clip, sampling)).answers
        return Completion(
            token_ids=TokenIds(answer.token_ids),
            logprobs=Logprobs(answer.logprobs),
            text=answering.inputs.renderer.text(answer.token_ids),
            finish_reason=answer.finish_reason,
            policy_version=answering.policy,
        )


def _failure(kind: FailureKind, culprit: str, error: Exception) -> Failure:
    return Failure(kind=kind, culprit=culprit, reason=str(error))


def _compared(row: Row, other: Row, view: View) -> Controlled | None:
    """The decision about a view beside that about the clip; None where the clip has none."""
    if row.probabilities is None:
        return None
    if other.probabilities is None:
        return Controlled(
            view=view,
            label=None,
            label_changed=False,
            total_variation=None,
            probabilities={},
            failure=other.failure,
        )
    pairs = [[row.probabilities[name], other.probabilities[name]] for name in row.probabilities]
    gaps = np.abs(np.diff(np.array(pairs), axis=1))
    return Controlled(
        view=view,
        label=other.label,
        label_changed=other.label != row.label,
        total_variation=float(gaps.sum() / 2),
        probabilities=other.probabilities,
    )
