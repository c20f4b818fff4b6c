"""Stage 1: supervised fine-tuning on the teacher's traces."""

from pathlib import Path
from typing import Any

from cluster.session import Session
from cluster.stages.evaluation import evaluate_policy
from cluster.stages.policy_versions import FIRST_STEP
from cluster.stages.supervised import train_supervised
from learner.shared_prefix.rows import supervised_row
from rollout.prompt import trace_target


async def run_coldstart(session: Session, model_dir: Path) -> dict[str, Any]:
    """Stage 1: the cold start."""
    epochs = session.config.coldstart.epochs
    num_traces, _ = await learn_from_teacher(session, "coldstart", model_dir, epochs)
    await session.learner.export(str(session.run_dir.model("coldstart")))
    await session.publish(FIRST_STEP)
    return {**await evaluate_policy(session, "coldstart"), "num_traces": num_traces}


async def learn_from_teacher(
    session: Session, name: str, model_dir: Path, epochs: int
) -> tuple[int, int]:
    """Fine-tune on teacher traces, assistant tokens only; the result stays in the learner. Returns
    the numbers of traces and of updates."""
    config = session.config.coldstart
    rows = [
        supervised_row(prompt, sample.video, session.renderer.target(trace_target(sample)))
        for sample, prompt in await session.prompts(session.data.with_teacher_trace)
    ]
    num_steps = await train_supervised(
        session,
        name,
        model_dir,
        rows,
        epochs=epochs,
        batch_size=config.batch_size,
        optim=config.optim,
        save_every=config.save_every,
    )
    return len(rows), num_steps
