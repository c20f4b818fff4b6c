"""Supervised fine-tuning through the learner: the cold start, and the verdict classifier.

rows -> epochs of shuffled batches -> updates, checkpoints in between
"""

from collections.abc import Sequence
from pathlib import Path

from cluster.driver.progress import progress_bar
from cluster.resume.loop_state import LoopState
from cluster.session import Session
from learner.config import OptimConfig
from learner.shared_prefix.rows import Row
from rollout.sampler import epoch_order


async def train_supervised(
    session: Session,
    stage: str,
    model_dir: Path,
    rows: Sequence[Row],
    *,
    epochs: int,
    batch_size: int,
    optim: OptimConfig,
    save_every: int | None = None,
) -> int:
    """Fine-tune ``model_dir`` on rows; the result stays in the learner. Resumes from its last
    checkpoint; there is one every ``save_every`` updates, else one after each epoch. Returns the
    number of updates."""
    await session.start_training(model_dir, optim)
    num_steps = num_updates(len(rows), epochs, batch_size)
    batches_per_epoch = num_steps // epochs
    checkpoints = session.checkpoints(stage)
    done = (await checkpoints.resume()).step
    if done < num_steps:
        await _preflight(session, stage, rows, batch_size)
    with progress_bar(stage, num_steps) as bar:
        bar.resume(done)
        order: list[int] = []
        for step in range(done, num_steps):
            epoch, number = divmod(step, batches_per_epoch)
            if number == 0 or not order:
                order = epoch_order(len(rows), session.config.seed, epoch)
            batch = [rows[i] for i in order[number * batch_size : (number + 1) * batch_size]]
            rate = optim.learning_rate_at(step, num_steps)
            figures = await session.learner.train_step(batch, "supervised", rate)
            session.metrics.write(stage, step + 1, figures)
            bar.advance(note=f"nll {figures['nll']:.3f}")
            if (step + 1) % (save_every or batches_per_epoch) == 0 or step + 1 == num_steps:
                await checkpoints.save(_state(step + 1, len(rows), batches_per_epoch, batch_size))
    return num_steps


def _state(step: int, num_rows: int, batches_per_epoch: int, batch_size: int) -> LoopState:
    epochs, batches = divmod(step, batches_per_epoch)
    return LoopState(step=step, next_index=epochs * num_rows + batches * batch_size)


async def _preflight(session: Session, stage: str, rows: Sequence[Row], batch_size: int) -> None:
    longest = max(rows, key=lambda row: row.num_tokens)
    await session.preflight(
        stage,
        prompt=len(longest.prompt.token_ids),
        response=len(longest.responses[0].token_ids),
        group_size=1,
        groups_per_update=min(batch_size, len(rows)),
    )


def num_updates(num_rows: int, epochs: int, batch_size: int) -> int:
    """Number of updates of a training; the last batch of an epoch may be smaller."""
    return epochs * -(-num_rows // batch_size)
