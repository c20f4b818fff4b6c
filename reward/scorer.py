"""Completions of one sample -> their scores, in order: built-ins here, user functions in their
processes.

    Sample, Completions -> every term of the reward, side by side -> Score or Failure per completion

A trace any of whose terms failed is a Failure: it is archived and masked, never scored as zero. The
scorer runs in the driver, and the processes of user functions on the driver's node, or on nodes
that it is given (reward/plugins/spread.py): there their files have to be.
"""

import asyncio
import inspect
import logging
import math
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from reward.builtins.judge import FrameReader, close_judges
from reward.builtins.table import BUILTINS, read_params
from reward.builtins.temporal import SHUFFLED_ACCURACY, share_right
from reward.combine import combine
from reward.config import RewardConfig, RewardTerm
from reward.context import RewardContext
from reward.plugins.question import Asked, Question
from reward.plugins.runner import PluginRunner, Value
from reward.plugins.signature import Signature
from reward.plugins.spread import FunctionNode, SpreadRunner
from wire.errors import ConfigError
from wire.labels import LabelSet
from wire.nearest import nearest
from wire.types import Completion, Failure, FailureKind, Sample, Score

log = logging.getLogger(__name__)


class Scorer:
    """Scores traces by the terms of a recipe.

    Example:
        async with Scorer(config, labels) as scorer:
            scores = await scorer.score(sample, completions)
    """

    def __init__(
        self,
        config: RewardConfig,
        labels: LabelSet,
        *,
        columns: Collection[str] | None = None,
        max_response_length: int | None = None,
        read_frames: FrameReader | None = None,
        nodes: Sequence[FunctionNode] = (),
    ) -> None:
        """Cheap: starts no process. ``columns``: the manifest's further columns, if known, so that
        a function that needs another is refused at the start; ``read_frames``: for judges that look
        at the clip; ``nodes``: for user functions, which run here without. Raises ConfigError if a
        user function's file is missing, or a label of ``label_weights``, or parameters of a
        built-in do not fit the task."""
        _check_label_weights(config.terms, labels)
        self._config = config
        self._labels = labels
        self._max_response_length = max_response_length
        self._runners: dict[str, PluginRunner | SpreadRunner] = {
            term.part: SpreadRunner(term, columns, nodes) if nodes else PluginRunner(term, columns)
            for term in config.terms
            if not term.is_builtin
        }
        self._arguments = {
            term.part: _arguments(term, labels, max_response_length, read_frames)
            for term in config.terms
            if term.is_builtin
        }
        self._started = False
        self._told: set[str] = set()

    async def start(self) -> None:
        """Load every user function in its process. Raises ConfigError if one cannot be loaded."""
        if not self._started:
            await asyncio.gather(*[runner.start() for runner in self._runners.values()])
            self._started = True

    @property
    def signatures(self) -> dict[str, Signature]:
        """Signatures of the loaded user functions, by reward part."""
        signatures = {part: runner.signature for part, runner in self._runners.items()}
        return {part: signature for part, signature in signatures.items() if signature is not None}

    async def score(
        self, sample: Sample, completions: Sequence[Completion], prompt: str = ""
    ) -> list[Score | Failure]:
        """One result per completion, in their order; ``prompt``: the text of the policy's prompt,
        for functions that want it.

        Waits at most ``timeout_s`` per completion for each user function (they run side by side),
        plus their restarts and the calls of other groups that wait for the same function.
        """
        await self.start()
        question = question_of(sample, completions, prompt)
        columns = await asyncio.gather(
            *[self._judge(term, sample, completions, question) for term in self._config.terms]
        )
        results = [self._join(sample.label, values) for values in zip(*columns, strict=True)]
        self._tell(sample, results)
        return results

    def wants_shuffled(self, sample: Sample) -> bool:
        """Whether a term needs traces about the clip's shuffled frames, which the sample lacks."""
        wanted = any(term.function == "temporal_contrast" for term in self._config.terms)
        return wanted and SHUFFLED_ACCURACY not in sample.extra

    def with_shuffled(self, sample: Sample, completions: Sequence[Completion]) -> Sample:
        """The sample with the share of right answers on shuffled frames as a column;
        ``completions`` not empty."""
        share = share_right(
            [completion.text for completion in completions], sample.label, self._labels
        )
        return replace(sample, extra={**sample.extra, SHUFFLED_ACCURACY: share})

    def take_figures(self) -> dict[str, float]:
        """Figures of the user functions' processes since the last call.

        reward/<part>/latency_p50_s, _p99_s   seconds per call: of a trace (verl's), a group (TRL's)
        reward/<part>/num_started             processes; more than ``concurrency``: some were ended
        reward/<part>/num_split               groups that failed whole and were asked one by one
        reward/<part>/num_lost                processes that died, hung or wrote nonsense
        """
        return {
            f"reward/{part}/{name}": value
            for part, runner in self._runners.items()
            for name, value in runner.take_figures().items()
        }

    async def close(self) -> None:
        """End the processes of user functions and the connections of judges."""
        await close_judges()
        await asyncio.gather(*[runner.close() for runner in self._runners.values()])

    async def __aenter__(self) -> "Scorer":
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _judge(
        self,
        term: RewardTerm,
        sample: Sample,
        completions: Sequence[Completion],
        question: Question,
    ) -> list[Value | Failure]:
        if not term.is_builtin:
            return await self._runners[term.part].score(question)
        contexts, arguments = self._contexts(sample, completions), self._arguments[term.part]
        if not inspect.iscoroutinefunction(BUILTINS[term.function]):
            return [_call(term, sample.label, context, arguments) for context in contexts]
        waiting = [_wait_for(term, sample.label, context, arguments) for context in contexts]
        return await asyncio.gather(*waiting)

    def _contexts(self, sample: Sample, completions: Sequence[Completion]) -> list[RewardContext]:
        texts = tuple(completion.text for completion in completions)
        return [
            RewardContext(
                labels=self._labels,
                extra=sample.extra,
                texts=texts,
                index=index,
                num_tokens=len(completion.token_ids),
                is_truncated=completion.finish_reason.is_truncated,
                max_response_length=self._max_response_length,
                video=sample.video,
            )
            for index, completion in enumerate(completions)
        ]

    def _tell(self, sample: Sample, results: Sequence[Score | Failure]) -> None:
        """Log the first failure of each term at once; the others are in the archive and counted."""
        for failure in results:
            if not isinstance(failure, Failure) or failure.kind is FailureKind.NOT_APPLICABLE:
                continue
            if failure.culprit not in self._told:
                self._told.add(failure.culprit)
                what = "reward %s failed on sample %s, and the trace is masked: %s\n%s"
                log.warning(what, failure.culprit, sample.id, failure.reason, failure.traceback)

    def _join(self, label: str, outcomes: Sequence[Value | Failure]) -> Score | Failure:
        """The outcome of one trace, from the values of all terms; the first failure stands."""
        values: dict[str, float | None] = {}
        parts: dict[str, float] = {}
        for term, outcome in zip(self._config.terms, outcomes, strict=True):
            if isinstance(outcome, Failure):
                return outcome
            values[term.part] = outcome.value
            if outcome.value is not None:
                parts[term.part] = outcome.value
            parts |= {f"{term.part}/{name}": value for name, value in outcome.extras.items()}
        total = combine(self._config, label, values)
        if total is None:
            return Failure(
                kind=FailureKind.NOT_APPLICABLE,
                culprit=", ".join(values),
                reason="every reward term with a weight returned None: none applies to this trace",
            )
        if not math.isfinite(total):
            culprit = max(values, key=lambda part: abs(values[part] or 0.0))
            reason = f"the {self._config.combine} of {values} is not finite; return smaller values"
            return Failure(kind=FailureKind.REWARD, culprit=culprit, reason=reason)
        return Score(total=total, parts=parts)


def _check_label_weights(terms: Sequence[RewardTerm], labels: LabelSet) -> None:
    for term in terms:
        for name in term.label_weights:
            if name not in labels.names:
                raise ConfigError(
                    f"reward term {term.part!r}: label_weights has {name!r}, which is no label; "
                    f"{nearest(name, labels.names)}"
                )


def _arguments(
    term: RewardTerm,
    labels: LabelSet,
    max_response_length: int | None,
    read_frames: FrameReader | None,
) -> dict[str, Any]:
    """Keyword arguments of a built-in, its parameters checked against the task."""
    params = read_params(term.function, term.params)
    try:
        params.refuse_unfit(labels, max_response_length)
    except ConfigError as error:
        raise ConfigError(f"reward term {term.part!r}: {error}") from error
    if term.function == "judge":
        return {**params.arguments(), "read_frames": read_frames}
    return params.arguments()


def _call(
    term: RewardTerm, label: str, context: RewardContext, arguments: Mapping[str, Any]
) -> Value | Failure:
    function = BUILTINS[term.function]
    try:
        value = function(context.texts[context.index], label, context, **arguments)
    except Exception as error:  # noqa: BLE001  a judge's mistake is never a zero
        return _failure(term, error)
    assert value is None or isinstance(value, float | int), f"{term.function} is not async"
    return _value(term, value)


async def _wait_for(
    term: RewardTerm, label: str, context: RewardContext, arguments: Mapping[str, Any]
) -> Value | Failure:
    call = BUILTINS[term.function](context.texts[context.index], label, context, **arguments)
    assert inspect.isawaitable(call), f"{term.function} is async"
    try:
        async with asyncio.timeout(term.timeout_s):
            value = await call
    except Exception as error:  # noqa: BLE001  as above
        return _failure(term, error)
    return _value(term, value)


def _value(term: RewardTerm, value: float | None) -> Value | Failure:
    if value is not None and not math.isfinite(value):
        return Failure(
            kind=FailureKind.REWARD,
            culprit=term.part,
            reason=f"returned {value}, expected a finite number",
        )
    return Value(value=value)


def _failure(term: RewardTerm, error: Exception) -> Failure:
    reason = f"no answer within {term.timeout_s:g} s" if _is_late(error) else repr(error)[:500]
    lines = traceback.format_exception(error, limit=-12)
    return Failure(
        kind=FailureKind.REWARD, culprit=term.part, reason=reason, traceback="".join(lines)[-4000:]
    )


def _is_late(error: Exception) -> bool:
    return isinstance(error, TimeoutError) and not error.args


def question_of(sample: Sample, completions: Sequence[Completion], prompt: str) -> Question:
    """The question to a user function about completions of one sample."""
    return Question(
        sample_id=sample.id,
        split=sample.split.value,
        label=sample.label,
        columns=sample.extra,
        prompt=prompt,
        step=max((c.policy_version.step for c in completions), default=0),
        traces=tuple(
            Asked(
                text=completion.text,
                token_ids=completion.token_ids,
                is_truncated=completion.finish_reason.is_truncated,
                policy_version=str(completion.policy_version),
            )
            for completion in completions
        ),
    )
