"""Supervised fine-tuning through the learner: the cold start, and the verdict classifier.

rows -> epochs of shuffled batches -> updates, a checkpoint per epoch
"""

from collections.abc import Sequence
from pathlib import Path

from cluster.checkpoints import Checkpoints
from cluster.progress import progress_bar
from cluster.sampler import epoch_order
from cluster.session import Session
from learner.config import OptimConfig
from learner.rows import Row


async def train_supervised(
    session: Session,
    stage: str,
    model_dir: Path,
    rows: Sequence[Row],
    *,
    epochs: int,
    batch_size: int,
    optim: OptimConfig,
) -> None:
    """Fine-tune ``model_dir`` on rows; the result is in the learner. Takes up its last
    checkpoint."""
    await session.begin(model_dir, optim)
    batches_per_epoch = -(-len(rows) // batch_size)
    num_steps = epochs * batches_per_epoch
    checkpoints = Checkpoints(session, stage)
    done = await checkpoints.resume()
    with progress_bar(stage, num_steps) as bar:
        bar.resume(done * batches_per_epoch)
        for epoch in range(done, epochs):
            order = epoch_order(len(rows), session.config.seed, epoch)
            for start in range(0, len(rows), batch_size):
                step = epoch * batches_per_epoch + start // batch_size
                batch = [rows[i] for i in order[start : start + batch_size]]
                rate = optim.learning_rate_at(step, num_steps)
                figures = await session.learner.train_step(batch, "supervised", rate)
                session.metrics.write(stage, step + 1, figures)
                bar.advance(note=f"nll {figures['nll']:.3f}")
            await checkpoints.save(epoch + 1)
