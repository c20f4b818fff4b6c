"""Round trip of a checkpoint: saved, loaded into another learner, trained on with the same
losses."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.figures import Figure
from tests.gpu.learners import largest_gap, learner, losses, write_model
from tests.gpu.setting import Setting

_TRIPS = (("float32", 0), ("float32", 3), ("bfloat16", 0), ("bfloat16", 2), ("bfloat16", 3))
_LIMITS = {"float32": 1e-5, "bfloat16": 1e-2}
"""The same weights and moments; what is left is the order of a card's sums."""


def figures(setting: Setting) -> Iterator[Figure]:
    """Losses of two updates after loading, against those of the learner that went on."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder, "model"))
        for dtype, stage in _TRIPS:
            saved = str(Path(folder, f"{dtype}-{stage}"))
            with learner(model, setting, dtype=dtype, zero_stage=stage) as worker:
                before = losses(worker, 2)
                worker.save(saved, "step-000002")
                expected = losses(worker, 2)
            with learner(model, setting, dtype=dtype, zero_stage=stage) as worker:
                worker.load(saved, "step-000002")
                actual = losses(worker, 2)
            away, name = largest_gap(actual, expected), f"checkpoint/{dtype}/zero_{stage}"
            yield Figure(f"{name}/losses", away, "gap", _LIMITS[dtype], "below")
            moved = largest_gap(actual[:1], before[:1])  # a checkpoint that loads nothing: 0
            yield Figure(f"{name}/trained_before_saving", moved, "gap", 1e-4, "above")
