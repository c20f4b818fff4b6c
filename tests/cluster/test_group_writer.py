"""Groups on their way into the archive, and T-GRPO's second one: on shuffled frames, half as large,
only where a term wants it."""

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.metrics.events import Event, EventLog, read_events
from cluster.pool.dispatch import RequestFailed
from rollout.engine import Sampling
from rollout.prompt import RationalePrompt
from rollout.worker import Rollout
from tests.cluster.session_fakes import (
    FakeEngines,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
)
from wire.archive.archive import read_groups
from wire.errors import TooManyFailures
from wire.types import Failure, FailureKind, Purpose, Sample, Score, TraceGroup

SAMPLING = Sampling(n=4, temperature=1.0, max_tokens=64, seed=1)
TERMS = [{"function": "accuracy"}, {"function": "temporal_contrast"}]


def is_shuffled(sample: Sample) -> bool:
    return sample.video.endswith("#view=shuffled")


async def written(
    path: Path, ordered: int, shuffled: int, purpose: Purpose = Purpose.TRAIN, **extra: float
) -> tuple[TraceGroup, list[str]]:
    """One group of which so many traces are right, of those on shuffled frames so many; and the
    clips that were asked about."""

    def write(weights: str, sample: Sample, index: int) -> str:
        is_right = index < (shuffled if is_shuffled(sample) else ordered)
        return f"<think>{index}</think><answer>{sample.label if is_right else '?'}</answer>"

    config = make_config(reward={"terms": TERMS})
    run_dir = make_run_dir(path, config)
    sample = replace(make_samples()[0], extra=extra)
    with open_fakes(config, run_dir, [sample], ("base", 0)) as (session, engines, *_):
        engines.write = write
        group = await session.writer.write(sample, SAMPLING, purpose, "g")
        await session.scorer.close()
    return group, [video for _, video in engines.wrote]


def bonuses(group: TraceGroup) -> list[float | None]:
    scores = [trace.outcome for trace in group.traces]
    assert all(isinstance(score, Score) for score in scores)
    return [s.parts.get("temporal_contrast") for s in scores if isinstance(s, Score)]


@pytest.mark.parametrize(
    ("ordered", "shuffled", "expected"),
    [
        (4, 0, [0.3] * 4),
        (2, 1, [0.3, 0.3, 0.0, 0.0]),  # 0.5 >= 0.8 * 0.5
        (1, 2, [0.0] * 4),  # 0.25 < 0.8 * 1
    ],
)
async def test_right_answers_earn_the_bonus_where_the_order_of_frames_helps(
    tmp_path: Path, ordered: int, shuffled: int, expected: list[float]
):
    group, asked = await written(tmp_path, ordered, shuffled)
    assert bonuses(group) == expected
    assert sorted(video.endswith("#view=shuffled") for video in asked) == [False, True]
    assert group.sample.extra == {"shuffled_accuracy": shuffled / 2}
    assert not is_shuffled(group.sample)


async def test_the_share_on_shuffled_frames_is_archived(tmp_path: Path):
    group, _ = await written(tmp_path, 4, 1)
    (found,) = read_groups(tmp_path / "run" / "archive")
    assert found.sample == group.sample


async def test_a_share_that_the_manifest_brings_is_taken(tmp_path: Path):
    group, asked = await written(tmp_path, 1, 0, shuffled_accuracy=1.0)
    assert bonuses(group) == [0.0] * 4
    assert len(asked) == 1


async def test_evaluation_asks_for_no_shuffled_traces(tmp_path: Path):
    group, asked = await written(tmp_path, 4, 0, Purpose.EVALUATION)
    assert bonuses(group) == [None] * 4
    assert len(asked) == 1


async def test_shuffled_traces_that_cannot_be_written_are_a_failure_of_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = Failure(kind=FailureKind.GENERATION, culprit="r0", reason="gone")
    answer = FakeEngines.answer

    async def fails(
        self: FakeEngines,
        sample: Sample,
        sampling: Sampling,
        upcoming: str | None = None,
        *ask: Any,
    ) -> Rollout:
        rollout = await answer(self, sample, sampling, upcoming, *ask)
        if is_shuffled(sample):
            return replace(rollout, prompt=None, completions=(), failures=(broken,))
        return rollout

    monkeypatch.setattr(FakeEngines, "answer", fails)
    group, _ = await written(tmp_path, 4, 0)
    assert group.failures == (broken,)
    assert bonuses(group) == [None] * 4


async def test_groups_that_are_written_at_once_share_a_write_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    num, sync, synced = 20, os.fsync, list[int]()

    def fsync(fd: int) -> None:
        if fd == session.archive._journal._fd:
            synced.append(fd)
            deadline = time.monotonic() + 20
            while len(synced) == 1 and len(session.archive._commit._waiting) < num - 1:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        sync(fd)

    config = make_config()
    sample = make_samples()[0]
    with open_fakes(config, make_run_dir(tmp_path, config), [sample], ("base", 0)) as (session, *_):
        monkeypatch.setattr(os, "fsync", fsync)
        writes = [
            session.writer.write(sample, SAMPLING, Purpose.TRAIN, f"g{number}")
            for number in range(num)
        ]
        groups = await asyncio.gather(*writes)
        await session.scorer.close()
    assert len(synced) == 2
    found = read_groups(tmp_path / "run" / "archive")
    assert sorted(group.group_id for group in found) == sorted(one.group_id for one in groups)


async def test_rationales_are_judged_by_no_reward_and_asked_for_as_the_caller_says(tmp_path: Path):
    config = make_config(reward={"terms": TERMS})
    run_dir = make_run_dir(tmp_path, config)
    sample, ask = make_samples()[0], RationalePrompt(hint=True)
    with open_fakes(config, run_dir, [sample], ("base", 0)) as (session, engines, *_):
        group = await session.writer.write(sample, SAMPLING, Purpose.RATIONALE, "g", ask=ask)
        await session.scorer.close()
    assert engines.asked == [ask]
    assert len(engines.wrote) == 1, "no second group on shuffled frames"
    assert [trace.reward for trace in group.traces] == [None] * 4
    kinds = {t.outcome.kind for t in group.traces if isinstance(t.outcome, Failure)}
    assert kinds == {FailureKind.NOT_APPLICABLE}
    (archived,) = read_groups(run_dir.archive, Purpose.RATIONALE)
    assert archived == group


# --- failure budgets


async def groups_of(
    path: Path, answers: list[Any], **failure: Any
) -> tuple[list[TraceGroup], list[Event], list[str]]:
    """A group for each of the workers' ``answers`` (a kind of failure, an error, or None: a good
    one) about one clip; the run's events, and the clips that were asked about."""
    config = make_config(
        rollout_failure=failure, data={"manifest": "m.jsonl", "max_quarantine_frac": 1.0}
    )
    run_dir, sample, groups = make_run_dir(path, config), make_samples()[0], list[TraceGroup]()
    with open_fakes(config, run_dir, [sample], ("base", 0)) as (session, engines, *_):
        session.writer._events = EventLog(run_dir.path, 0)
        answer = engines.answer

        async def scripted(*asked: Any) -> Rollout:
            rollout, outcome = await answer(*asked), script.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is None:
                return rollout
            failed = Failure(kind=outcome, culprit="r0", reason="why")
            return replace(rollout, prompt=None, completions=(), failures=(failed,))

        script = list(answers)
        engines.answer = scripted  # type: ignore[method-assign]
        try:
            for number in range(len(answers)):
                group = await session.writer.write(sample, SAMPLING, Purpose.TRAIN, f"g{number}")
                groups.append(group)
        finally:
            await session.scorer.close()
    assert list(read_groups(run_dir.archive)) == groups, "what failed is archived, too"
    return groups, list(read_events(run_dir.path)), [video for _, video in engines.wrote]


async def test_a_request_that_the_fleet_failed_for_good_is_a_dropped_group_with_its_cause(
    tmp_path: Path,
):
    lost = RequestFailed("5 tries failed, the last: rollout-3 died", "rollout-3")
    (group,), events, _ = await groups_of(tmp_path, [lost])
    assert group.is_dropped
    assert (group.failures[0].culprit, group.failures[0].kind) == ("rollout-3", "generation")
    (event,) = events
    assert (event.kind, event.subject) == ("group_dropped", "g0")
    assert event.fields == {"cause": "generation", "culprit": "rollout-3", "why": str(lost)}


@pytest.mark.parametrize("kind", [FailureKind.DECODE, FailureKind.PROMPT])
async def test_a_sample_that_its_data_fails_is_asked_for_so_often_and_no_more(
    tmp_path: Path, kind: FailureKind
):
    groups, events, asked = await groups_of(tmp_path, [kind] * 4, max_data_attempts=2)
    assert len(asked) == 2
    assert [bool(group.failures) for group in groups] == [True] * 4
    assert events == [], "bad data is no fault of the fleet"


async def test_so_many_dropped_groups_in_a_row_end_the_run_and_an_answer_resets_them(
    tmp_path: Path,
):
    lost = FailureKind.GENERATION
    groups, *_ = await groups_of(
        tmp_path / "a", [lost, lost, None, lost, lost], max_consecutive_dropped=2
    )
    assert [group.is_dropped for group in groups] == [True, True, False, True, True]
    with pytest.raises(TooManyFailures, match=r"max_consecutive_dropped"):
        await groups_of(tmp_path / "b", [lost] * 3, max_consecutive_dropped=2)
