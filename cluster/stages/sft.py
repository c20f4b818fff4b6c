"""Supervised fine-tuning of the policy: on teacher traces, on labels, on its own right traces, or
on rationales.

clips -> examples -> updates -> model -> engines -> measured as it was taught to answer
"""

from dataclasses import dataclass
from typing import Any

from calibrate.traces import VerdictExamples
from cluster.config.chain import BASE
from cluster.config.kinds.rationales import RationalesStage
from cluster.config.kinds.sft import MANIFEST, SftStage
from cluster.inputs.from_run import weights_hash
from cluster.session import Session
from cluster.stages.evaluation import evaluate_labels, evaluate_policy, readable
from cluster.stages.label_codes import LabelCodes
from cluster.stages.own_traces import write_own_traces
from cluster.stages.spilled_rows import SpilledRows
from cluster.stages.stage import StageRun
from cluster.stages.supervised import SupervisedTrainer
from cluster.stages.validators import sft_validator
from learner.shared_prefix.rows import supervised_row
from rollout.prompt import trace_target
from rollout.rationales.as_trace import trace_of
from rollout.rationales.rationale_file import iter_rationales, rationale_file
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """What a supervised stage learns from."""

    rows: SpilledRows
    figures: dict[str, Any]
    """Counts for done.json."""
    cost: dict[str, int]
    """Traces written to choose from."""


async def run_sft(session: Session, run: StageRun) -> dict[str, Any]:
    """Fine-tune the policy, keep its model, and measure it."""
    stage = run.of(SftStage)
    started_from = await run_in_daemon_thread(start_of, session, run)
    examples = await _examples(session, run)
    with examples.rows as rows:
        validator = await sft_validator(session, run)
        trainer = SupervisedTrainer.of(session, stage.name, stage.validation, validator)
        num_updates = await trainer.train(
            run.start.model_dir,
            rows,
            epochs=stage.epochs,
            batch_size=stage.batch_size,
            optim=stage.optim,
            save_every=stage.save_every,
            lora=stage.lora,
        )
    if run.exports:
        await session.learner.export(str(session.run_dir.model(stage.name)))
    split = stage.split or session.config.evaluate.split
    samples = session.data.of(split)
    if stage.asks_labels:
        measured = await evaluate_labels(session, stage.name, samples, run.last_step)
    else:
        await session.publish(run.last_step)
        temperature = session.config.evaluate.temperature
        measured = await evaluate_policy(session, stage.name, samples, temperature, trained=True)
    cost = examples.cost | {"num_updates": num_updates}
    trained = trainer.validated | trainer.adapted
    figures = {"started_from": started_from, **measured, **examples.figures, **trained}
    return {"split": split, **figures, "cost": cost}


def start_of(session: Session, run: StageRun) -> dict[str, Any]:
    """What done.json says of the weights that a stage starts from: who left them, and their hash.
    Reads all of them."""
    folder, step = run.start
    left = (name for name in session.config.chain.names if session.run_dir.model(name) == folder)
    digest = weights_hash(folder)
    return {"stage": next(left, BASE), "version_step": step, "weights_sha256": digest}


async def _examples(session: Session, run: StageRun) -> Examples:
    stage = run.of(SftStage)
    nothing_written = {"num_rollouts": 0, "num_generated_tokens": 0}
    if stage.data == "own":
        kept = await write_own_traces(session, run)
        return Examples(rows=kept.rows, figures=kept.figures, cost=kept.cost)
    if stage.data == "labels":
        rows = await _label_rows(session, stage)
        return Examples(rows=rows, figures={"num_labels": len(rows)}, cost=nothing_written)
    if stage.data == "rationales":
        rows, figures = await _rationale_rows(session, stage)
        return Examples(rows=rows, figures=figures, cost=nothing_written)
    rows, figures = await _trace_rows(session, stage)
    return Examples(rows=rows, figures=figures, cost=nothing_written)


async def _trace_rows(session: Session, stage: SftStage) -> tuple[SpilledRows, dict[str, int]]:
    """A row per teacher's trace, and one per label where the stage learns those as well; and their
    counts."""
    rows = await _first_rows(session, stage)
    num_labels = len(rows)
    async for block in session.prompt_blocks(stage.taught(session.data.samples)):
        rows.extend(
            supervised_row(prompt, sample.video, session.renderer.target(trace_target(sample)))
            for sample, prompt in block
        )
    counts = {"num_traces": len(rows) - num_labels}
    return rows, counts | ({"num_labels": num_labels} if stage.with_labels else {})


async def _first_rows(session: Session, stage: SftStage) -> SpilledRows:
    """Rows of labels where a stage learns them beside texts, else none yet."""
    if stage.with_labels:
        return await _label_rows(session, stage)
    return SpilledRows(session.run_dir.path)


async def _label_rows(session: Session, stage: SftStage) -> SpilledRows:
    """A row per clip that teaches its label."""
    clips = readable(stage.clips.of(session.data.samples), session.quarantine)
    asked = VerdictExamples(clips, None)
    return await LabelCodes.of(session).targets(asked, session.run_dir.path)


async def _rationale_rows(session: Session, stage: SftStage) -> tuple[SpilledRows, dict[str, int]]:
    """A row per rationale, in the order of the clips, and one per label where the stage learns
    those as well; and their counts. Raises DataError without a rationale."""
    targets = await run_in_daemon_thread(_rationale_texts, session, stage)
    clips = [sample for sample in stage.clips.of(session.data.samples) if sample.id in targets]
    if not clips:
        raise DataError(
            f"{stage.rationales} has kept no rationale of the clips that {stage.name} learns from; "
            f"see {rationale_file(session.run_dir.path, str(stage.rationales))} for the reasons, "
            "change its prompt or its filters, or the clips"
        )
    rows = await _first_rows(session, stage)
    num_labels = len(rows)
    async for block in session.prompt_blocks(clips, session.config.chain.rationale_kind(stage)):
        for sample, prompt in block:
            for text in targets[sample.id]:
                row = supervised_row(prompt, sample.video, session.renderer.target(text))
                rows.append(row)
    counts = {"num_rationales": len(rows) - num_labels, "num_clips": len(clips)}
    return rows, counts | ({"num_labels": num_labels} if stage.with_labels else {})


def _rationale_texts(session: Session, stage: SftStage) -> dict[str, list[str]]:
    """Rationales to learn, by the id of their clip."""
    if stage.rationales == MANIFEST:
        taught = stage.taught(session.data.samples)
        return {sample.id: [trace_target(sample)] for sample in taught}
    source, labels = session.config.chain[str(stage.rationales)], session.config.label_set
    assert isinstance(source, RationalesStage), "the chain refuses another"
    texts: dict[str, list[str]] = {}
    for one in iter_rationales(session.run_dir.path, source.name):
        if one.kept:
            text = one.text
            if stage.as_trace:
                text = trace_of(text, one.label, labels, source.closing)
            texts.setdefault(one.id, []).append(text)
    return {clip: some[: stage.num_rationales] for clip, some in texts.items()}
