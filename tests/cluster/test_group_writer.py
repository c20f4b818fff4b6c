"""Groups on their way into the archive, and T-GRPO's second one: on shuffled frames, half as large,
only where a term wants it."""

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

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
