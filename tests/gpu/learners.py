"""A learner of one rank in this process, for the checks of ZeRO and of checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from learner.config import OptimConfig
from learner.ranks.rendezvous import open_rendezvous
from learner.shared_prefix.rows import Row, StepCounts
from learner.worker import LearnerWorker
from tests.gpu.setting import Setting
from tests.learner.builders import make_learner, make_row
from tests.tiny_models import write_tiny_model

RATE = 1e-4
_SIZES = [(3, 5), (2,), (7, 1), (4,)]


def write_model(folder: Path) -> Path:
    """A small model on the disk."""
    return write_tiny_model(folder, "qwen2_5_vl")


def taught_rows() -> list[Row]:
    """Groups whose responses all count alike, so that the loss goes down."""
    rows = [make_row(seed, lengths) for seed, lengths in enumerate(_SIZES)]
    return [
        replace(row, responses=tuple(replace(r, advantage=1.0) for r in row.responses))
        for row in rows
    ]


@contextmanager
def learner(model: Path, setting: Setting, **changed: Any) -> Iterator[LearnerWorker]:
    """A learner at the start of a stage."""
    worker = make_learner(
        num_gpus=0 if setting.small else 1,
        **{"max_tokens_per_batch": 30, "freeze_vision_tower": False, **changed},
    )
    worker.join(0, "127.0.0.1", open_rendezvous(1))
    worker.begin(str(model), OptimConfig(learning_rate=RATE, weight_decay=0.1))
    try:
        yield worker
    finally:
        worker.engine.close()


def losses(worker: LearnerWorker, steps: int) -> list[float]:
    """The loss of each of some updates."""
    rows = taught_rows()
    counts = StepCounts.of(rows)
    return [worker.train_step(rows, counts, "supervised", RATE)["nll"] for _ in range(steps)]


def largest_gap(some: list[float], others: list[float]) -> float:
    """The largest difference of losses, relative."""
    return max(abs(a - b) / abs(b) for a, b in zip(some, others, strict=True))
