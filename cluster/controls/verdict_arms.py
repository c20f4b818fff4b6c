"""Control arms in which a classifier answers: trained on other traces, on none, or shown other
clips.

    examples -> RunVerdictTrainer, from the refined policy -> the policy's test traces -> figures

Each function is one kind of arm: takes a session and what was declared of the arm
(cluster/config/controls.py), returns the arm's part of done.json.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from calibrate.fit import ask_verdict
from calibrate.predictions import Prediction
from calibrate.verdict import (
    VerdictExample,
    label_predictions,
    probabilities_from_logprobs,
    report_traces,
    trace_agreement,
    training_rows,
)
from cluster.config.chain import BASE
from cluster.config.controls import (
    VerdictOnViewStage,
    VerdictStage,
    calibration_of,
    main_stages,
)
from cluster.controls.arm_inputs import calibration_clips, cost, policy_answers, trained_clips
from cluster.session import Session
from cluster.stages.evaluation import EvaluationWriter, num_failed, readable, taken_up
from cluster.stages.stage import StageRun
from cluster.stages.trace_writer import RunTraceWriter
from cluster.stages.verdict_trainer import RunVerdictTrainer
from learner.config import OptimConfig
from video.address import with_view
from wire.types import Purpose, Sample, TraceGroup

Result = dict[str, Any]


async def other_verdict(session: Session, run: StageRun) -> Result:
    """A verdict trained as the calibration's is, on other traces or on none."""
    traces = run.of(VerdictStage).traces
    if traces == "teacher":
        return await _on_policy_traces(session, run, _on_clips(session, with_traces=True))
    if traces == "none":
        asked = [
            _example(sample, None) for sample in readable(_evaluated(session), session.quarantine)
        ]
        return await _train_and_ask(session, run, _on_clips(session, with_traces=False), asked)
    return await _verdict_on_trained_clips(session, run)


async def verdict_on_view(session: Session, run: StageRun) -> Result:
    """The calibrated verdict on another view of the clips (blank, shuffled), both for the policy
    that writes the traces and for the verdict."""
    config, view = session.config, run.of(VerdictOnViewStage).view
    samples = [with_view(sample, view) for sample in _evaluated(session)]
    writer = RunTraceWriter.of(session, run.name)
    groups = await writer.write_evaluation(samples)
    calibrated = session.run_dir.model(main_stages(config.chain).calibrated)
    await session.start_training(calibrated, OptimConfig())
    verdict = RunVerdictTrainer.of(session, run.name, run.start.model_dir)
    predictions = await ask_verdict(verdict, groups, config.label_set)
    return _measured(session, run.name, predictions) | {
        "num_failed": num_failed(groups),
        **taken_up(writer),
        "cost": cost(),
    }


async def _verdict_on_trained_clips(session: Session, run: StageRun) -> Result:
    """The verdict trained on the policy's traces of clips that GRPO trained on, which are more
    often right than on new clips."""
    config, labels = session.config, session.config.label_set
    calibration = calibration_of(config)
    writer = RunTraceWriter.of(session, run.name)
    groups = await writer.write(
        trained_clips(config, session.data),
        calibration.num_traces,
        calibration.temperature,
        Purpose.CALIBRATION,
    )
    examples = training_rows(groups, labels.names)
    result = await _on_policy_traces(session, run, examples, groups)
    return result | {"traces": asdict(report_traces(groups, labels)), **taken_up(writer)}


def _on_clips(session: Session, *, with_traces: bool) -> list[VerdictExample]:
    """The calibration's clips, each as often as the verdict meets it in an epoch, so that the
    updates are as many; with the teacher's trace, or without one."""
    config = session.config
    clips = readable(calibration_clips(config, session.data), session.quarantine)
    times = range(calibration_of(config).num_traces)
    return [_example(clip, clip.trace if with_traces else None) for clip in clips for _ in times]


async def _on_policy_traces(
    session: Session,
    run: StageRun,
    examples: Sequence[VerdictExample],
    written: Sequence[TraceGroup] = (),
) -> Result:
    """Train a verdict as the stage does, and measure it on the same policy's test traces."""
    answers = await policy_answers(session, run.stage.from_ or BASE)
    groups = [group for _, group in answers if group is not None]
    asked = training_rows(groups, session.config.label_set.names)
    return await _train_and_ask(session, run, examples, asked, written)


async def _train_and_ask(
    session: Session,
    run: StageRun,
    examples: Sequence[VerdictExample],
    asked: Sequence[VerdictExample],
    written: Sequence[TraceGroup] = (),
) -> Result:
    training = calibration_of(session.config)
    epochs = run.of(VerdictStage).times * training.epochs
    verdict = RunVerdictTrainer.of(session, run.name, run.start.model_dir)
    num_updates = await verdict.train(examples, training.model_copy(update={"epochs": epochs}))
    probabilities = probabilities_from_logprobs(await verdict.label_logprobs(asked))
    names = session.config.label_set.names
    predictions = label_predictions(_evaluated(session), asked, probabilities, names)
    return _measured(session, run.name, predictions) | {
        "num_failed": sum(prediction.predicted is None for prediction in predictions),
        "cost": cost(written, num_updates),
        "num_examples": len(examples),
    }


def _measured(session: Session, name: str, predictions: Sequence[Prediction]) -> Result:
    step = session.engine_weights_step
    return {
        "evaluation": asdict(EvaluationWriter.of(session).write(name, predictions, step)),
        "split": session.config.evaluate.split,
        "agreement": trace_agreement(predictions, session.config.label_set),
    }


def _evaluated(session: Session) -> list[Sample]:
    return session.data.of(session.config.evaluate.split)


def _example(sample: Sample, trace: str | None) -> VerdictExample:
    return VerdictExample(sample=sample, trace=trace, label=sample.label)
