"""Control arms in which a policy answers: with its probabilities, or by several traces.

    start weights -> traces -> answers -> predictions, figures

Each function is one kind of arm: takes a session and what was declared of the arm
(cluster/config/controls.py), returns the arm's part of done.json.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from calibrate.predictions import Prediction, from_votes
from calibrate.verdict import probabilities_from_logprobs, report_traces
from cluster.config.chain import BASE
from cluster.config.controls import VoteStage, calibration_of
from cluster.controls.arm_inputs import calibration_clips, cost, policy_answers, trained_clips
from cluster.session import Session
from cluster.stages.evaluation import EvaluationWriter, num_failed, taken_up
from cluster.stages.label_codes import code_logprobs, label_code_row
from cluster.stages.stage import StageRun
from cluster.stages.trace_writer import RunTraceWriter
from learner.config import OptimConfig
from learner.shared_prefix.rows import Row
from wire.types import Purpose, Split

Result = dict[str, Any]


async def policy_probability(session: Session, run: StageRun) -> Result:
    """The refined policy's written answers, with probabilities over all labels: of the label codes
    where the answer stands, after the policy's own trace."""
    answers = await policy_answers(session, run.stage.from_ or BASE)
    labels = session.config.label_set
    rows: dict[str, Row] = {}
    for prediction, group in answers:
        if prediction.predicted is None or group is None:
            continue
        answer = session.renderer.answer_codes(group.traces[0].completion.token_ids, labels)
        assert answer is not None, "a trace with a parsed answer has an answer block"
        assert group.prompt is not None, "a trace answers a prompt"
        before, codes = answer
        # the trace joins the prompt, so that it is computed once for all labels
        prompt = replace(group.prompt, token_ids=group.prompt.token_ids + before)
        rows[prediction.sample_id] = label_code_row(
            prompt, group.sample.video, list(codes.values())
        )
    predictions = {p.sample_id: p for p, _ in answers}
    if rows:
        await session.start_training(run.start.model_dir, OptimConfig())
        logprobs = await code_logprobs(session.learner, list(rows.values()))
        shares = probabilities_from_logprobs(logprobs).tolist()
        for sample_id, share in zip(rows, shares, strict=True):
            predictions[sample_id] = _with_probabilities(
                predictions[sample_id], share, labels.names
            )
    return {
        "evaluation": _evaluation(session, run.name, list(predictions.values())),
        "num_failed": sum(group is None for _, group in answers),
        "split": session.config.evaluate.split,
        "cost": cost(),
    }


async def vote(session: Session, run: StageRun) -> Result:
    """The most frequent answer of several traces; equal counts: the first label by name."""
    config, labels = session.config, session.config.label_set
    writer = RunTraceWriter.of(session, run.name)
    groups = await writer.write(
        session.data.of(config.evaluate.split),
        run.of(VoteStage).num_votes,
        config.rollout.temperature,
        Purpose.EVALUATION,
    )
    predictions = [
        from_votes(
            group.sample.id,
            group.sample.label,
            [labels.answer_in(trace.completion.text) for trace in group.traces],
            labels.names,
        )
        for group in groups
    ]
    return {
        "evaluation": _evaluation(session, run.name, predictions),
        "num_failed": num_failed(groups),
        **taken_up(writer),
        "split": config.evaluate.split,
        "cost": cost(groups),
        "num_votes": run.of(VoteStage).num_votes,
        "trace_accuracy": report_traces(groups, labels).accuracy,
    }


async def trace_accuracy(session: Session, run: StageRun) -> Result:
    """Accuracy of the traces that a verdict would learn from: on clips that GRPO trained on, on
    val, and on the calibration's clips."""
    config, labels = session.config, session.config.label_set
    calibration = calibration_of(config)
    clips = {
        "train": trained_clips(config, session.data),
        "val": session.data.of(Split.VAL),
        "cal": calibration_clips(config, session.data),
    }
    samples = {sample.id: sample for split in clips.values() for sample in split}
    writer = RunTraceWriter.of(session, run.name)
    groups = await writer.write(
        list(samples.values()),
        calibration.num_traces,
        calibration.temperature,
        Purpose.EVALUATION,
    )
    of_clip = {group.sample.id: group for group in groups}
    accuracies = {
        name: report_traces([of_clip[sample.id] for sample in split], labels).accuracy
        for name, split in clips.items()
    }
    return accuracies | {
        "num_clips": {name: len(split) for name, split in clips.items()},
        "num_failed": num_failed(groups),
        **taken_up(writer),
        "split": None,
        "cost": cost(groups),
    }


def _with_probabilities(
    prediction: Prediction, shares: Sequence[float], names: Sequence[str]
) -> Prediction:
    assert prediction.predicted is not None
    return replace(
        prediction,
        confidence=min(shares[names.index(prediction.predicted)], 1.0),
        probabilities=tuple(shares),
    )


def _evaluation(session: Session, name: str, predictions: Sequence[Prediction]) -> Result:
    """Figures of an arm's predictions, which are written with them."""
    step = session.engine_weights_step
    return asdict(EvaluationWriter.of(session).write(name, predictions, step))
