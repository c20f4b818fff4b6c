"""Scripted writer: groups through the pool's real dispatcher, then reward and archive, which take
their time and do nothing."""

import asyncio
import random
from collections.abc import Sequence

from cluster.metrics.timeline import ARCHIVE, REWARD, Timeline, span
from cluster.pool.dispatch import Dispatcher, RequestFailed
from cluster.simulation.resources import Serial
from cluster.simulation.scenario import Scenario
from cluster.simulation.workers import ScriptedFleet
from wire.token_arrays import Logprobs, TokenIds
from wire.types import (
    Completion,
    Failure,
    FailureKind,
    FinishReason,
    PolicyVersion,
    Prompt,
    Purpose,
    Sample,
    Score,
    Split,
    Trace,
    TraceGroup,
    stable_seed,
)

SAMPLE = Sample(id="scripted", video="scripted.mp4", label="a", split=Split.TRAIN)
_PROMPT = Prompt(token_ids=TokenIds((1,)), clip_key="", fingerprint="")
_RIGHT, _WRONG = Score(total=1.0, parts={}), Score(total=0.0, parts={})
_IDS, _LOGPROBS = TokenIds((1,)), Logprobs((-1.0,))


class ScriptedWriter:
    """Writes groups of scripted traces. Implements the loop's ``Writer``."""

    def __init__(
        self,
        scenario: Scenario,
        fleet: ScriptedFleet,
        dispatcher: Dispatcher,
        driver: Serial,
        timeline: Timeline,
    ) -> None:
        self._scenario, self._fleet, self._dispatcher = scenario, fleet, dispatcher
        self._driver, self._timeline = driver, timeline
        self._lengths = scenario.lengths

    async def write(self, sample: Sample, index: int, upcoming: Sample | None = None) -> TraceGroup:
        """Write the group of a place."""
        timings, size = self._scenario.timings, self._scenario.rollout.group_size
        lengths = self._lengths.of(index, size)
        try:
            versions = await self._dispatcher.ask(
                lambda name: self._fleet.answer(name, lengths), f"group {index}", turn=None
            )
        except RequestFailed as error:
            return _failed(index, str(error))
        if timings.reward_s:
            with span(self._timeline, REWARD, "score", group=str(index)):
                await asyncio.sleep(timings.reward_s)
        await self._driver.use(timings.driver_s_per_trace * size)
        if timings.archive_s:
            with span(self._timeline, ARCHIVE, "append", group=str(index)):
                await asyncio.sleep(timings.archive_s)
        return _group(index, versions, has_signal=self._has_signal(index))

    def _has_signal(self, place: int) -> bool:
        """Whether a group has signal: by chance, the same for a place whenever it is written."""
        draw = random.Random(stable_seed("signal", self._scenario.seed, place)).random()
        return draw >= self._scenario.timings.no_signal_frac


def _group(index: int, versions: Sequence[int], *, has_signal: bool) -> TraceGroup:
    traces = tuple(
        Trace(
            completion=Completion(
                token_ids=_IDS,
                logprobs=_LOGPROBS,
                text="",
                finish_reason=FinishReason.STOP,
                policy_version=PolicyVersion(attempt=0, step=version),
            ),
            outcome=_RIGHT if number or not has_signal else _WRONG,
        )
        for number, version in enumerate(versions)
    )
    return _of(index, min(versions), _PROMPT, traces)


def _failed(index: int, why: str) -> TraceGroup:
    failure = Failure(kind=FailureKind.GENERATION, culprit="fleet", reason=why)
    return _of(index, 0, None, (), (failure,))


def _of(
    index: int,
    version: int,
    prompt: Prompt | None,
    traces: tuple[Trace, ...],
    failures: tuple[Failure, ...] = (),
) -> TraceGroup:
    return TraceGroup(
        group_id=str(index),
        sample=SAMPLE,
        purpose=Purpose.TRAIN,
        policy_version=PolicyVersion(attempt=0, step=version),
        prompt=prompt,
        traces=traces,
        failures=failures,
    )
