"""Control arms in which a classifier answers: trained on other traces or none, or on other views.

    examples -> RunVerdictTrainer, from the refined policy
             -> its predictions on the policy's own test traces -> figures

Each function is one arm: takes a session and the start weights, returns the arm's part of
done.json.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calibrate.config import CalibrateConfig
from calibrate.predictions import Prediction
from calibrate.verdict import VerdictExample, report_traces, trace_agreement, training_rows
from cluster.config.controls import ArmName
from cluster.controls.arm_inputs import (
    calibration_clips,
    cost,
    policy_answers,
    readable,
    trained_clips,
)
from cluster.session import Session
from cluster.stages.evaluation import measure, num_failed, write_evaluation_traces
from cluster.stages.failure_limits import refuse_failures
from cluster.stages.trace_writer import RunTraceWriter
from cluster.stages.verdict_trainer import RunVerdictTrainer
from learner.config import OptimConfig
from video.address import View, with_view
from wire.types import Purpose, Sample, TraceGroup

Result = dict[str, Any]


async def verdict_teacher(session: Session, model_dir: Path) -> Result:
    """The verdict trained on the teacher's traces of the same clips, each as often as the policy
    wrote traces of the clip: the mismatch that calibration removes."""
    config = session.config
    samples = readable(session, calibration_clips(config, session.data))
    examples = [_example(s, s.trace) for s in samples for _ in range(config.calibrate.num_traces)]
    return await _on_policy_traces(session, model_dir, "verdict_teacher", examples)


async def verdict_train(session: Session, model_dir: Path) -> Result:
    """The verdict trained on the policy's traces of clips that GRPO trained on, which are more
    often right than on new clips."""
    config, labels = session.config, session.config.label_set
    groups = await RunTraceWriter(session, "verdict_train").write(
        trained_clips(config, session.data),
        config.calibrate.num_traces,
        config.calibrate.temperature,
        Purpose.CALIBRATION,
    )
    refuse_failures(groups, config.reward.max_failure_frac)
    examples = training_rows(groups, labels.names)
    result = await _on_policy_traces(session, model_dir, "verdict_train", examples, groups)
    return result | {"traces": asdict(report_traces(groups, labels))}


async def video_only(session: Session, model_dir: Path, *, name: ArmName, times: int) -> Result:
    """A classifier that sees no trace, trained ``times`` as many updates as the verdict."""
    config = session.config
    clips = readable(session, calibration_clips(config, session.data))
    # each clip as often as the verdict meets it in an epoch, so that the updates are as many
    examples = [_example(s, None) for s in clips for _ in range(config.calibrate.num_traces)]
    asked = [_example(s, None) for s in readable(session, _evaluated(session))]
    training = config.calibrate.model_copy(update={"epochs": times * config.calibrate.epochs})
    return await _train_and_ask(session, model_dir, name, examples, training, asked)


async def verdict_on_view(
    session: Session, policy_dir: Path, *, name: ArmName, view: View
) -> Result:
    """The calibrated verdict on another view of the clips (blank, shuffled), both for the policy
    that writes the traces and for the verdict."""
    samples = [with_view(sample, view) for sample in _evaluated(session)]
    groups = await write_evaluation_traces(session, name, samples)
    await session.start_training(session.run_dir.model("calibrated"), OptimConfig())
    verdict = RunVerdictTrainer(session, name, policy_dir)
    asked = training_rows(groups, session.config.label_set.names)
    predictions = await verdict.predict(asked, samples)
    return _measured(session, name, predictions) | {
        "num_failed": num_failed(groups),
        "cost": cost(),
    }


async def _on_policy_traces(
    session: Session,
    model_dir: Path,
    name: ArmName,
    examples: Sequence[VerdictExample],
    written: Sequence[TraceGroup] = (),
) -> Result:
    """Train a verdict as the stage does, and measure it on the same policy's test traces."""
    groups = [group for _, group in await policy_answers(session) if group is not None]
    asked = training_rows(groups, session.config.label_set.names)
    training = session.config.calibrate
    return await _train_and_ask(session, model_dir, name, examples, training, asked, written)


async def _train_and_ask(
    session: Session,
    model_dir: Path,
    name: ArmName,
    examples: Sequence[VerdictExample],
    training: CalibrateConfig,
    asked: Sequence[VerdictExample],
    written: Sequence[TraceGroup] = (),
) -> Result:
    verdict = RunVerdictTrainer(session, name, model_dir)
    num_updates = await verdict.train(examples, training)
    predictions = await verdict.predict(asked, _evaluated(session))
    return _measured(session, name, predictions) | {
        "num_failed": sum(prediction.predicted is None for prediction in predictions),
        "cost": cost(written, num_updates),
        "num_examples": len(examples),
    }


def _measured(session: Session, name: ArmName, predictions: Sequence[Prediction]) -> Result:
    return {
        "evaluation": asdict(measure(session, name, predictions)),
        "split": session.config.evaluate.split,
        "agreement": trace_agreement(predictions, session.config.label_set),
    }


def _evaluated(session: Session) -> list[Sample]:
    return session.data.of(session.config.evaluate.split)


def _example(sample: Sample, trace: str | None) -> VerdictExample:
    return VerdictExample(sample=sample, trace=trace, label=sample.label)
