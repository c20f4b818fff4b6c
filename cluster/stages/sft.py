"""Supervised fine-tuning of the policy: on teacher traces, on labels, or on its own right traces.

clips -> examples -> updates -> model -> engines -> measured as it was taught to answer
"""

from dataclasses import dataclass
from typing import Any

from calibrate.traces import VerdictExamples
from cluster.config.kinds.sft import SftStage
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
    if stage.data == "labels":
        measured = await evaluate_labels(session, stage.name, samples, run.last_step)
    else:
        await session.publish(run.last_step)
        temperature = session.config.evaluate.temperature
        measured = await evaluate_policy(session, stage.name, samples, temperature, trained=True)
    cost = examples.cost | {"num_updates": num_updates}
    trained = trainer.validated | trainer.adapted
    return {"split": split, **measured, **examples.figures, **trained, "cost": cost}


async def _examples(session: Session, run: StageRun) -> Examples:
    stage = run.of(SftStage)
    nothing_written = {"num_rollouts": 0, "num_generated_tokens": 0}
    if stage.data == "own":
        kept = await write_own_traces(session, run)
        return Examples(rows=kept.rows, figures=kept.figures, cost=kept.cost)
    if stage.data == "labels":
        clips = readable(stage.clips.of(session.data.samples), session.quarantine)
        asked = VerdictExamples(clips, None)
        rows = await LabelCodes.of(session).targets(asked, session.run_dir.path)
        return Examples(rows=rows, figures={"num_labels": len(rows)}, cost=nothing_written)
    rows = SpilledRows(session.run_dir.path)
    async for block in session.prompt_blocks(stage.taught(session.data.samples)):
        rows.extend(
            supervised_row(prompt, sample.video, session.renderer.target(trace_target(sample)))
            for sample, prompt in block
        )
    return Examples(rows=rows, figures={"num_traces": len(rows)}, cost=nothing_written)
