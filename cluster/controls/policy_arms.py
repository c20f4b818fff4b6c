"""Control arms in which a policy answers: after other training, on other clips, or by several
traces.

    start weights -> (the arm's training) -> traces -> answers -> predictions, figures

Each function is one arm: takes a session and the start weights, returns the arm's part of
done.json.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from calibrate.predictions import Prediction, from_votes
from calibrate.verdict import probabilities_from_logprobs, report_traces
from cluster.config.controls import ArmName
from cluster.controls.arm_inputs import (
    archived,
    calibration_clips,
    cost,
    own_step,
    policy_answers,
    trained_clips,
)
from cluster.driver.progress import progress_bar
from cluster.resume.archived_groups import ArchivedGroups
from cluster.session import Session
from cluster.stages.coldstart import learn_from_teacher
from cluster.stages.evaluation import evaluate_policy, measure, num_failed
from cluster.stages.failure_limits import refuse_failures
from cluster.stages.grpo import GrpoPlan, TrainingGroupWriter, run_grpo
from cluster.stages.supervised import train_supervised
from cluster.stages.trace_writer import RunTraceWriter
from cluster.stages.verdict_trainer import code_logprobs, label_code_row
from learner.config import OptimConfig
from learner.shared_prefix.rows import Row, supervised_row
from reward.config import RewardTerm
from rollout.sampler import Sampler
from video.address import View, with_view
from wire.errors import DataError
from wire.types import Purpose, Score, Split, Trace, TraceGroup

Result = dict[str, Any]

_AT_ONCE = 256  # groups held in memory


async def coldstart_val(session: Session, model_dir: Path) -> Result:
    """The cold start on val: what ``coldstart_2x`` is compared with."""
    measured = await evaluate_policy(session, "coldstart_val", session.data.of(Split.VAL))
    return measured | {"split": Split.VAL, "cost": cost()}


async def coldstart_2x(session: Session, model_dir: Path) -> Result:
    """A cold start of twice the epochs, on val: was the cold start trained to its plateau?"""
    name: ArmName = "coldstart_2x"
    epochs = 2 * session.config.coldstart.epochs
    num_traces, num_updates = await learn_from_teacher(session, name, model_dir, epochs)
    await session.publish(own_step(session.config, name))
    measured = await evaluate_policy(session, name, session.data.of(Split.VAL))
    spent = cost(num_updates=num_updates)
    return measured | {"split": Split.VAL, "cost": spent, "num_traces": num_traces}


async def rejection(session: Session, model_dir: Path) -> Result:
    """Rejection sampling (RFT; Yuan et al. 2023, arXiv 2308.01825): SFT on the cold start's own
    traces that earned the full reward, each text of a clip once.

    Samples as many traces as GRPO wrote, of the same clips equally often: those of GRPO's places.
    """
    name: ArmName = "rejection"
    config = session.config.controls.rejection
    kept = await _sample_and_reject(session, name)
    num_updates = await train_supervised(
        session,
        name,
        model_dir,
        list(kept.rows.values()),
        epochs=config.epochs,
        batch_size=config.batch_size,
        optim=config.optim,
    )
    await session.publish(own_step(session.config, name))
    return await evaluate_policy(session, name) | {
        "split": session.config.evaluate.split,
        "cost": kept.cost | {"num_updates": num_updates},
        "num_rollouts": kept.cost["num_rollouts"],
        "num_kept": len(kept.rows),
        "num_clips_kept": len({sample_id for sample_id, _ in kept.rows}),
        "settings": config.model_dump(mode="json"),
    }


async def policy_probability(session: Session, model_dir: Path) -> Result:
    """The refined policy's written answers, with probabilities over all labels: of the label codes
    where the answer stands, after the policy's own trace."""
    answers = await policy_answers(session)
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
        await session.start_training(model_dir, OptimConfig())
        logprobs = await code_logprobs(session, list(rows.values()))
        shares = probabilities_from_logprobs(logprobs).tolist()
        for sample_id, share in zip(rows, shares, strict=True):
            predictions[sample_id] = _with_probabilities(
                predictions[sample_id], share, labels.names
            )
    evaluation = measure(session, "policy_probability", list(predictions.values()))
    return {
        "evaluation": asdict(evaluation),
        "num_failed": sum(group is None for _, group in answers),
        "split": session.config.evaluate.split,
        "cost": cost(),
    }


async def vote(session: Session, model_dir: Path) -> Result:
    """The most frequent answer of several traces; equal counts: the first label by name."""
    config, labels = session.config, session.config.label_set
    groups = await RunTraceWriter(session, "vote").write(
        session.data.of(config.evaluate.split),
        config.controls.num_votes,
        config.rollout.temperature,
        Purpose.EVALUATION,
    )
    refuse_failures(groups, config.reward.max_failure_frac)
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
        "evaluation": asdict(measure(session, "vote", predictions)),
        "num_failed": num_failed(groups),
        "split": config.evaluate.split,
        "cost": cost(groups),
        "num_votes": config.controls.num_votes,
        "trace_accuracy": report_traces(groups, labels).accuracy,
    }


async def trace_accuracy(session: Session, model_dir: Path) -> Result:
    """Accuracy of the traces that a verdict would learn from: on clips that GRPO trained on, on
    val, and on the calibration's clips."""
    config, labels = session.config, session.config.label_set
    clips = {
        "train": trained_clips(config, session.data),
        "val": session.data.of(Split.VAL),
        "cal": calibration_clips(config, session.data),
    }
    samples = {sample.id: sample for split in clips.values() for sample in split}
    groups = await RunTraceWriter(session, "trace_accuracy").write(
        list(samples.values()),
        config.calibrate.num_traces,
        config.calibrate.temperature,
        Purpose.EVALUATION,
    )
    refuse_failures(groups, config.reward.max_failure_frac)
    of_clip = {group.sample.id: group for group in groups}
    accuracies = {
        name: report_traces([of_clip[sample.id] for sample in split], labels).accuracy
        for name, split in clips.items()
    }
    return accuracies | {
        "num_clips": {name: len(split) for name, split in clips.items()},
        "num_failed": num_failed(groups),
        "split": None,
        "cost": cost(groups),
    }


async def on_view(session: Session, model_dir: Path, *, name: ArmName, view: View) -> Result:
    """The policy's answers on another view of its clips (blank, shuffled)."""
    samples = [with_view(s, view) for s in session.data.of(session.config.evaluate.split)]
    measured = await evaluate_policy(session, name, samples)
    return measured | {"split": session.config.evaluate.split, "cost": cost()}


async def grpo_more(session: Session, model_dir: Path) -> Result:
    """GRPO continued with the calibration's clips added, for as many updates again: the gain of the
    policy itself from these clips and more training."""
    name: ArmName = "grpo_more"
    config, data = session.config, session.data
    both = [*data.of(Split.TRAIN), *calibration_clips(config, data)]
    samples = list({sample.id: sample for sample in both}.values())
    first_step = own_step(config, name)
    await run_grpo(session, model_dir, GrpoPlan(name=name, samples=samples, first_step=first_step))
    # from the archive: a resumed arm has not all its groups in memory
    groups = await asyncio.to_thread(archived, session, name, Purpose.TRAIN)
    return await evaluate_policy(session, name) | {
        "split": config.evaluate.split,
        "cost": cost(groups, config.grpo.num_steps * config.grpo.updates_per_step),
        "num_clips": len(samples),
    }


class _Kept:
    """Traces with full reward, by clip and text, and the cost of sampling them all."""

    def __init__(self, terms: Sequence[RewardTerm]) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        """Rows by sample id and text."""
        self.cost = cost()
        self._parts = [term.part for term in terms if term.weight > 0]

    def add(self, group: TraceGroup, session: Session) -> None:
        """Count a group's cost, and keep its traces with full reward."""
        self.cost = {key: self.cost[key] + value for key, value in cost([group]).items()}
        for trace in group.traces:
            text = trace.completion.text
            if group.prompt is not None and self._is_full(trace):
                target = session.renderer.target(text)
                row = supervised_row(group.prompt, group.sample.video, target)
                self.rows.setdefault((group.sample.id, text), row)

    def _is_full(self, trace: Trace) -> bool:
        """Whether every positive reward term that applies gives 1 or more."""
        score = trace.outcome
        return isinstance(score, Score) and all(score.parts.get(p, 1) >= 1 for p in self._parts)


async def _sample_and_reject(session: Session, name: ArmName) -> _Kept:
    """Sample the traces of GRPO's places, and keep the best. Raises DataError if none is kept."""
    config = session.config
    sampler = Sampler(
        session.data.of(Split.TRAIN), config.seed, balanced=config.grpo.class_balanced
    )
    writer = TrainingGroupWriter(session, name, ArchivedGroups())
    kept = _Kept(config.reward.terms)
    num_places = config.grpo.num_steps * config.grpo.groups_per_step
    with progress_bar(f"{name} traces", num_places) as bar:

        async def write(place: int) -> TraceGroup:
            group = await writer.write(sampler.at(place), place)
            bar.advance()
            return group

        for start in range(0, num_places, _AT_ONCE):
            places = range(start, min(start + _AT_ONCE, num_places))
            groups = await asyncio.gather(*[write(place) for place in places])
            refuse_failures(groups, config.reward.max_failure_frac)
            for group in groups:
                kept.add(group, session)
    session.archive.compact(session.engine_weights_step)
    if not kept.rows:
        raise DataError(
            f"none of {kept.cost['num_rollouts']} traces earned the full reward (every term 1), so "
            f"{name} has nothing to learn from; leave it out of controls.arms"
        )
    return kept


def _with_probabilities(
    prediction: Prediction, shares: Sequence[float], names: Sequence[str]
) -> Prediction:
    assert prediction.predicted is not None
    return replace(
        prediction,
        confidence=min(shares[names.index(prediction.predicted)], 1.0),
        probabilities=tuple(shares),
    )
