"""Trainings that learn nothing, through the stages: warned of, written down, ended. Engines and
learner are fakes; session, metrics log, checkpoints and status are real."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.driver.peak_memory import MemoryWatch
from cluster.metrics.metrics_log import MetricsLog
from cluster.report.gather import gather
from cluster.run_dir import RunDir
from cluster.session import Session
from cluster.stages.grpo.stage import train_grpo
from cluster.stages.stage import run_stage
from cluster.stages.stage_functions import stage_run
from cluster.status.run_status import read_status
from cluster.summary import summarise_run
from learner.shared_prefix.rows import Row
from tests.cluster.session_fakes import (
    FIRST_STEP,
    FakeLearner,
    grpo_run,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
)
from wire.errors import LearnsNothing, root_causes
from wire.types import Sample

LEFT_OUT = "were left out, because their gradient was not finite (NaN, infinity)"


class Blown(FakeLearner):
    """A learner whose gradient is NaN from its second update on, once it has one."""

    num_sound = 1

    async def train_step(
        self, rows: Sequence[Row], objective: str, learning_rate: float
    ) -> dict[str, float]:
        weights, num_before = self.weights, len(self.steps)
        figures = await super().train_step(rows, objective, learning_rate)
        if num_before < self.num_sound:
            return figures | {"grad_norm": 1.5, "update_skipped": 0.0}
        self.weights = weights
        return figures | {"grad_norm": math.nan, "nll": 3.0, "update_skipped": 1.0}


class BlownAtLast(Blown):
    num_sound = 11


def half_right(weights: str, sample: Sample, index: int) -> str:
    label = sample.label if index == 0 else "none"
    return f"<think>up {weights}</think><answer>{label}</answer>"


def always_wrong(weights: str, sample: Sample, index: int) -> str:
    return f"<think>up {weights} {sample.id} {index}</think><answer>none</answer>"


def rows_of(run_dir: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]


def with_real_metrics(session: Session) -> Session:
    session.metrics = MetricsLog(session.run_dir.path, session.attempt, [])
    return session


async def run_whole(session: Session, name: str) -> None:
    with MemoryWatch() as memory:
        await run_stage(session, stage_run(session.config, session.run_dir, name), memory)


async def test_a_cold_start_that_skips_nearly_all_updates_ends_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = make_config()
    run_dir = make_run_dir(tmp_path, config, "base")
    start = ("base-model", 0)
    with (
        open_fakes(config, run_dir, make_samples(), start, make_learner=Blown) as (session, *_),
        caplog.at_level(logging.WARNING),
        pytest.raises(LearnsNothing, match=r"^coldstart learns nothing: 7 of 8 updates"),
    ):
        await run_whole(with_real_metrics(session), "coldstart")
    run_dir.close()
    (record,) = [r for r in caplog.records if "learning_guards" in r.name]
    assert "coldstart: 1 of 2 updates were left out" in record.message
    assert [row["grad_norm"] for row in rows_of(run_dir)] == [1.5, *[None] * 7]
    assert read_status(run_dir.path).learning == (f"coldstart: 7 of 8 updates {LEFT_OUT}",)
    assert gather(run_dir.path, max_clips=0).warnings == (f"coldstart: 7 of 8 updates {LEFT_OUT}",)


async def test_what_a_finished_stage_skipped_is_in_its_result_the_summary_and_the_status(
    tmp_path: Path,
):
    config = make_config()
    run_dir = make_run_dir(tmp_path, config, "base")
    samples, start = make_samples(), ("base-model", 0)
    opened = open_fakes(config, run_dir, samples, start, make_learner=BlownAtLast)
    with opened as (session, *_):
        await run_whole(with_real_metrics(session), "coldstart")
    run_dir.close()
    line = f"1 of 12 updates {LEFT_OUT}"
    assert (run_dir.result("coldstart") or {})["warnings"] == [line]
    assert summarise_run(config, run_dir)["warnings"] == {"coldstart": [line]}
    with run_dir.metrics.open("a") as file:  # far behind in the file, it is still said
        row = {"stage": "grpo", "attempt": 0, "time": 1.0, "text": "x" * 1000}
        file.writelines(json.dumps(row | {"step": step}) + "\n" for step in range(1, 301))
    assert read_status(run_dir.path).learning == (f"coldstart: {line}",)


async def refused_grpo(session: Session) -> str:
    """The message that ends GRPO."""
    with pytest.raises(ExceptionGroup) as error:
        await train_grpo(session, grpo_run(session))
    (cause,) = root_causes(error.value)
    assert isinstance(cause, LearnsNothing)
    return str(cause)


GRPO = {"num_steps": 6, "groups_per_step": 4, "groups_per_update": 2, "save_every": 1}


async def test_skipped_updates_of_grpo_are_counted_one_by_one_and_their_norm_is_in_no_mean(
    tmp_path: Path,
):
    config = make_config(grpo=GRPO, guards={"max_skipped_frac": 1.0})
    run_dir = make_run_dir(tmp_path, config)
    start = ("base", FIRST_STEP)
    opened = open_fakes(config, run_dir, make_samples(), start, make_learner=Blown)
    with opened as (session, engines, learner, metrics):
        engines.write = half_right
        text = await refused_grpo(session)
        assert f"grpo learns nothing: 11 of 12 updates {LEFT_OUT}, the last 11 one" in text
    run_dir.close()
    first, *_, last = metrics.values
    assert (first["grad_norm"], first["update_skipped"]) == (1.5, 0.5)
    assert math.isnan(last["grad_norm"])
    assert last["learning/skipped"] == 11
    assert learner.weights == "coldstart+", "a skipped update leaves the weights as they were"


async def test_a_resumed_stage_does_not_forget_what_was_skipped(tmp_path: Path):
    config = make_config(grpo=GRPO, guards={"max_skipped_frac": 1.0, "max_skipped_in_a_row": 8})
    run_dir = make_run_dir(tmp_path, config)
    start, samples = ("base", FIRST_STEP), make_samples()
    steps = []
    for num_sound in (4, 0):  # the first attempt is killed after 2 sound steps and 2 of 4 skipped

        class Learner(Blown):
            pass

        Learner.num_sound = num_sound
        opened = open_fakes(config, run_dir, samples, start, make_learner=Learner)
        with opened as (session, engines, _, metrics):
            engines.write = half_right
            if num_sound:
                real = session.publish

                async def dying(step: int, real: Any = real) -> dict[str, float]:
                    if step == FIRST_STEP + 5:
                        raise ConnectionError("killed")
                    return dict(await real(step))

                session.publish = dying  # type: ignore[method-assign]
                with pytest.raises(ExceptionGroup):
                    await train_grpo(session, grpo_run(session))
            else:
                text = await refused_grpo(session)
                assert f"8 of 12 updates {LEFT_OUT}, the last 8 one" in text
            steps.append([step for _, step in metrics.lines])
    run_dir.close()
    assert steps == [[1, 2, 3, 4], [5, 6]]


async def test_a_reward_that_never_differs_is_warned_of_and_ends_the_stage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = make_config(grpo=GRPO, guards={"max_steps_without_signal": 5})
    run_dir = make_run_dir(tmp_path, config)
    start = ("base", FIRST_STEP)
    with open_fakes(config, run_dir, make_samples(), start) as (session, engines, _, metrics):
        engines.write = always_wrong
        text = await refused_grpo(session)
        assert "in 5 of 5 steps no group had signal: every trace earned" in text
    run_dir.close()
    assert "in 4 of 4 steps no group had signal: every trace earned" in caplog.text
    assert metrics.values[-1]["learning/no_signal_in_a_row"] == 5


async def test_one_text_for_every_clip_is_warned_of_in_the_first_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = make_config(grpo=GRPO)
    run_dir = make_run_dir(tmp_path, config)
    start = ("base", FIRST_STEP)
    with open_fakes(config, run_dir, make_samples(), start) as (session, engines, *_):
        engines.write = lambda weights, sample, index: "<think>a</think><answer>undo</answer>"
        await train_grpo(session, grpo_run(session))
    run_dir.close()
    texts = [r.message for r in caplog.records if "one text for all traces" in r.message]
    assert len(texts) == 1
    assert texts[0].startswith("grpo: 1 of 1 steps had one text")


async def test_a_training_that_is_stopped_early_is_judged_by_the_updates_that_it_made(
    tmp_path: Path,
):
    config = make_config(
        coldstart={"epochs": 20, "batch_size": 2}, validate={"every": 1, "patience": 3}
    )
    run_dir = make_run_dir(tmp_path, config, "base")
    opened = open_fakes(config, run_dir, make_samples(), ("base-model", 0), make_learner=Blown)
    with (
        opened as (session, *_),
        pytest.raises(LearnsNothing, match=r"2 of 3 updates .*max_skipped_frac"),
    ):
        await run_whole(with_real_metrics(session), "coldstart")
    run_dir.close()


async def test_a_measured_policy_of_one_text_is_in_result_summary_status_and_report(tmp_path: Path):
    config = make_config()
    run_dir = make_run_dir(tmp_path, config)
    with open_fakes(config, run_dir, make_samples(), ("base-model", 0)) as (session, engines, *_):
        engines.write = lambda weights, sample, index: "<answer>undo</answer>"
        await run_whole(with_real_metrics(session), "base")
    run_dir.close()
    line = "all traces of the 4 measured clips are one text"
    assert summarise_run(config, run_dir)["warnings"] == {"base": [line]}
    assert read_status(run_dir.path).learning == (f"base: {line}",)
    assert gather(run_dir.path, max_clips=0).warnings == (f"base: {line}",)
