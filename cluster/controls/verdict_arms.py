"""Control arms in which a classifier answers: trained on other traces, on none, or shown other
clips.

    examples -> RunVerdictTrainer, from the refined policy -> the policy's test traces -> figures

Each function is one kind of arm: takes a session and what was declared of the arm
(cluster/config/controls.py), returns the arm's part of done.json.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from calibrate.fit import ask_verdict
from calibrate.predictions import Prediction
from calibrate.traces import TraceSet, VerdictExamples
from calibrate.verdict import (
    label_predictions,
    probabilities_from_logprobs,
    report_traces,
    training_rows,
)
from cluster.config.chain import BASE
from cluster.config.controls import (
    VerdictOnViewStage,
    VerdictStage,
    calibration_of,
    main_stages,
)
from cluster.controls.arm_inputs import (
    calibration_clips,
    cost,
    policy_answers,
    trained_clips,
    written_cost,
)
from cluster.session import Session
from cluster.stages.evaluation import EvaluationWriter, readable, taken_up
from cluster.stages.stage import StageRun
from cluster.stages.trace_writer import RunTraceWriter
from cluster.stages.verdict_trainer import RunVerdictTrainer
from learner.config import OptimConfig
from video.address import with_view
from wire.types import Purpose, Sample

Result = dict[str, Any]


async def other_verdict(session: Session, run: StageRun) -> Result:
    """A verdict trained as the calibration's is, on other traces or on none."""
    traces = run.of(VerdictStage).traces
    if traces == "teacher":
        return await _on_policy_traces(session, run, _on_clips(session, with_traces=True))
    if traces == "none":
        asked = VerdictExamples(readable(_evaluated(session), session.quarantine), None)
        return await _train_and_ask(session, run, _on_clips(session, with_traces=False), asked)
    return await _verdict_on_trained_clips(session, run)


async def verdict_on_view(session: Session, run: StageRun) -> Result:
    """The calibrated verdict on another view of the clips (blank, shuffled), both for the policy
    that writes the traces and for the verdict."""
    config, view = session.config, run.of(VerdictOnViewStage).view
    samples = [with_view(sample, view) for sample in _evaluated(session)]
    writer = RunTraceWriter.of(session, run.name)
    traces = await writer.write_evaluation(samples)
    calibrated = session.run_dir.model(main_stages(config.chain).calibrated)
    await session.start_training(calibrated, OptimConfig())
    verdict = RunVerdictTrainer.of(session, run.name, run.start.model_dir)
    predictions = await ask_verdict(verdict, traces, config.label_set)
    return await _measured(session, run.name, predictions) | {
        "num_failed": traces.num_failed,
        **taken_up(writer),
        "cost": cost(),
    }


async def _verdict_on_trained_clips(session: Session, run: StageRun) -> Result:
    """The verdict trained on the policy's traces of clips that GRPO trained on, which are more
    often right than on new clips."""
    config = session.config
    calibration = calibration_of(config)
    writer = RunTraceWriter.of(session, run.name)
    traces = await writer.write(
        trained_clips(config, session.data),
        calibration.num_traces,
        calibration.temperature,
        Purpose.CALIBRATION,
    )
    examples = training_rows(traces, config.label_set.names)
    result = await _on_policy_traces(session, run, examples, traces)
    return result | {"traces": asdict(report_traces(traces)), **taken_up(writer)}


def _on_clips(session: Session, *, with_traces: bool) -> VerdictExamples:
    """The calibration's clips, each as often as the verdict meets it in an epoch, so that the
    updates are as many; with the teacher's trace, or without one."""
    config = session.config
    clips = readable(calibration_clips(config, session.data), session.quarantine)
    times = range(calibration_of(config).num_traces)
    shown = [clip for clip in clips for _ in times]
    return VerdictExamples(shown, [clip.trace or "" for clip in shown] if with_traces else None)


async def _on_policy_traces(
    session: Session,
    run: StageRun,
    examples: VerdictExamples,
    written: TraceSet | None = None,
) -> Result:
    """Train a verdict as the stage does, and measure it on the same policy's test traces."""
    answers = await policy_answers(session, run.stage.from_ or BASE)
    asked = training_rows(answers.traces, session.config.label_set.names)
    return await _train_and_ask(session, run, examples, asked, written)


async def _train_and_ask(
    session: Session,
    run: StageRun,
    examples: VerdictExamples,
    asked: VerdictExamples,
    written: TraceSet | None = None,
) -> Result:
    training = calibration_of(session.config)
    epochs = run.of(VerdictStage).times * training.epochs
    verdict = RunVerdictTrainer.of(session, run.name, run.start.model_dir)
    num_updates = await verdict.train(examples, training.model_copy(update={"epochs": epochs}))
    probabilities = probabilities_from_logprobs(await verdict.label_logprobs(asked))
    names = session.config.label_set.names
    predictions = label_predictions(_evaluated(session), asked, probabilities, names)
    answered = {sample.id for sample in asked.samples}
    return await _measured(session, run.name, predictions) | {
        "num_failed": sum(sample.id not in answered for sample in _evaluated(session)),
        "cost": cost(num_updates=num_updates)
        if written is None
        else written_cost(written, num_updates),
        "num_examples": len(examples),
    }


async def _measured(session: Session, name: str, predictions: Iterable[Prediction]) -> Result:
    step = session.engine_weights_step
    written = await EvaluationWriter.of(session).write(name, predictions, step)
    return {
        "evaluation": asdict(written.figures),
        "split": session.config.evaluate.split,
        "agreement": written.agreement,
    }


def _evaluated(session: Session) -> list[Sample]:
    return session.data.of(session.config.evaluate.split)
