"""ZeRO 0 to 3 on one rank, with and without offload: the same losses over some updates."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure
from tests.gpu.learners import largest_gap, learner, losses, write_model
from tests.gpu.setting import Setting

_STEPS = 6
_LIMITS = {"float32": 1e-4, "bfloat16": 2e-2}
_SETTINGS: tuple[dict[str, Any], ...] = (
    {"zero_stage": 0},
    {"zero_stage": 1},
    {"zero_stage": 2},
    {"zero_stage": 3},
    {"zero_stage": 3, "gradient_checkpointing": True},
    {"zero_stage": 1, "offload": "optimizer"},
    {"zero_stage": 2, "offload": "optimizer"},
    {"zero_stage": 3, "offload": "optimizer"},
    {"zero_stage": 3, "offload": "optimizer_and_parameters"},
)


def figures(setting: Setting, dtype: str) -> Iterator[Figure]:
    """The largest difference from the losses without ZeRO; these must go down."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder))
        expected: list[float] = []
        for changed in _SETTINGS:
            with learner(model, setting, dtype=dtype, **changed) as worker:
                actual = losses(worker, _STEPS)
            name = f"zero/{dtype}/" + "_".join(
                [
                    str(changed["zero_stage"]),
                    *(["checkpointing"] if "gradient_checkpointing" in changed else []),
                    *([f"offload_{changed['offload']}"] if "offload" in changed else []),
                ]
            )
            if not expected:
                expected = actual
                yield Figure(f"{name}/last_to_first_loss", actual[-1] / actual[0], "", 1.0, "below")
            else:
                away = largest_gap(actual, expected)
                yield Figure(f"{name}/losses", away, "gap", _LIMITS[dtype], "below")
