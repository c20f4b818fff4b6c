"""Numbers of a run: one line of metrics.jsonl and one TensorBoard event per step. Names are
``area/thing``."""

import json
import time
from pathlib import Path
from typing import Self


class MetricsLog:
    """Appends to ``metrics.jsonl`` and TensorBoard's event files."""

    def __init__(self, run_dir: Path, attempt: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._attempt = attempt
        self._file = (run_dir / "metrics.jsonl").open("a")
        self._board = SummaryWriter(str(run_dir / "tensorboard"))

    def write(self, stage: str, step: int, values: dict[str, float]) -> None:
        """One step's numbers."""
        line = {"stage": stage, "step": step, "attempt": self._attempt, "time": time.time()}
        self._file.write(json.dumps({**line, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{stage}/{name}", value, step)
        self._board.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stopwatch:
    """Seconds per phase of a step: ``with watch("rollout"): ...``"""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._phase = ""
        self._start = 0.0

    def __call__(self, phase: str) -> Self:
        self._phase = phase
        return self

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        spent = time.perf_counter() - self._start
        key = f"timing_s/{self._phase}"
        self.seconds[key] = self.seconds.get(key, 0.0) + spent
