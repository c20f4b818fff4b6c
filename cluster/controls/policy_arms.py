"""Control arms in which a policy answers: with its probabilities, or by several traces.

    start weights -> traces -> answers -> predictions, figures

Each function is one kind of arm: takes a session and what was declared of the arm
(cluster/config/controls.py), returns the arm's part of done.json.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from calibrate.predictions import Prediction, from_votes, iter_predictions
from calibrate.traces import TraceSet
from calibrate.verdict import probabilities_from_logprobs, report_traces
from cluster.config.chain import BASE
from cluster.config.controls import VoteStage, calibration_of
from cluster.controls.arm_inputs import (
    PolicyAnswers,
    calibration_clips,
    cost,
    policy_answers,
    trained_clips,
    written_cost,
)
from cluster.session import Session
from cluster.stages.evaluation import EvaluationWriter, taken_up
from cluster.stages.label_codes import code_logprobs, label_code_row
from cluster.stages.stage import StageRun
from cluster.stages.trace_writer import RunTraceWriter
from learner.config import OptimConfig
from learner.shared_prefix.rows import Row
from rollout.render import Renderer
from wire.daemon_thread import run_in_daemon_thread
from wire.labels import LabelSet
from wire.types import Purpose, Split

Result = dict[str, Any]
_ROWS_AT_ONCE = 1024  # of a call to the learner


async def policy_probability(session: Session, run: StageRun) -> Result:
    """The refined policy's written answers, with probabilities over all labels: of the label codes
    where the answer stands, after the policy's own trace."""
    answers = await policy_answers(session, run.stage.from_ or BASE)
    labels, shares = session.config.label_set, dict[str, list[float]]()
    blocks = _answer_rows(answers, labels, session.renderer)
    while block := await run_in_daemon_thread(next, blocks, None):
        if not shares:
            await session.start_training(run.start.model_dir, OptimConfig())
        logprobs = await code_logprobs(session.learner, [row for _, row in block])
        of_block = probabilities_from_logprobs(logprobs).tolist()
        shares |= {id_: share for (id_, _), share in zip(block, of_block, strict=True)}
    predictions = (
        _with_probabilities(one, shares[one.sample_id], labels.names)
        if one.sample_id in shares
        else one
        for one in iter_predictions(answers.path)
    )
    return {
        "evaluation": await _evaluation(session, run.name, predictions),
        "num_failed": answers.num_without,
        "split": session.config.evaluate.split,
        "cost": cost(),
    }


def _answer_rows(
    answers: PolicyAnswers, labels: LabelSet, renderer: Renderer
) -> Iterator[list[tuple[str, Row]]]:
    """Blocks of sample ids, each with a row of the label codes where its answer stands."""
    block: list[tuple[str, Row]] = []
    for prediction, group in answers.with_groups():
        if prediction.predicted is None or group is None:
            continue
        answer = renderer.answer_codes(group.traces[0].completion.token_ids, labels)
        assert answer is not None, "a trace with a parsed answer has an answer block"
        assert group.prompt is not None, "a trace answers a prompt"
        before, codes = answer
        # the trace joins the prompt, so that it is computed once for all labels
        prompt = replace(group.prompt, token_ids=group.prompt.token_ids + before)
        row = label_code_row(prompt, group.sample.video, list(codes.values()))
        block.append((prediction.sample_id, row))
        if len(block) == _ROWS_AT_ONCE:
            yield block
            block = []
    if block:
        yield block


async def vote(session: Session, run: StageRun) -> Result:
    """The most frequent answer of several traces; equal counts: the first label by name."""
    config, labels = session.config, session.config.label_set
    writer = RunTraceWriter.of(session, run.name)
    traces = await writer.write(
        session.data.of(config.evaluate.split),
        run.of(VoteStage).num_votes,
        config.rollout.temperature,
        Purpose.EVALUATION,
    )
    predictions = (
        from_votes(facts.sample.id, facts.sample.label, facts.answers, labels.names)
        for facts in traces.facts
    )
    return {
        "evaluation": await _evaluation(session, run.name, predictions),
        "num_failed": traces.num_failed,
        **taken_up(writer),
        "split": config.evaluate.split,
        "cost": written_cost(traces),
        "num_votes": run.of(VoteStage).num_votes,
        "trace_accuracy": report_traces(traces).accuracy,
    }


async def trace_accuracy(session: Session, run: StageRun) -> Result:
    """Accuracy of the traces that a verdict would learn from: on clips that GRPO trained on, on
    val, and on the calibration's clips."""
    config = session.config
    calibration = calibration_of(config)
    clips = {
        "train": trained_clips(config, session.data),
        "val": session.data.of(Split.VAL),
        "cal": calibration_clips(config, session.data),
    }
    samples = {sample.id: sample for split in clips.values() for sample in split}
    writer = RunTraceWriter.of(session, run.name)
    traces = await writer.write(
        list(samples.values()),
        calibration.num_traces,
        calibration.temperature,
        Purpose.EVALUATION,
    )
    of_clip = {facts.sample.id: facts for facts in traces.facts}
    accuracies = {
        name: report_traces(TraceSet([of_clip[sample.id] for sample in split], ())).accuracy
        for name, split in clips.items()
    }
    return accuracies | {
        "num_clips": {name: len(split) for name, split in clips.items()},
        "num_failed": traces.num_failed,
        **taken_up(writer),
        "split": None,
        "cost": written_cost(traces),
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


async def _evaluation(session: Session, name: str, predictions: Iterable[Prediction]) -> Result:
    """Figures of an arm's predictions, which are written with them."""
    step = session.engine_weights_step
    written = await EvaluationWriter.of(session).write(name, predictions, step)
    return asdict(written.figures)
