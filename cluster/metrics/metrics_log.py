"""Log of a run's metrics: one record per step, to metrics.jsonl and the recipe's sinks.

    values -> MetricsLog -> metrics.jsonl | TensorBoard | W&B | MLflow | Prometheus

Names are ``area/thing``; all of them, with unit and meaning, are in cluster/metrics/catalogue.py.
metrics.jsonl is the run's own record, where a figure that is not finite is null. The others are
copies for people, without such figures: one that raises is dropped with a warning, and the run goes
on.
"""

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

from cluster.metrics.catalogue import verl_names
from cluster.metrics.sink_names import dashboard_names
from cluster.metrics.timeline import DRIVER, NoTimeline, OpenSpan, Timeline
from wire.strict_json import to_json

log = logging.getLogger(__name__)


class MetricsSink(Protocol):
    """Destination of metrics, such as a dashboard."""

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One step's numbers; ``stage`` is empty for names that stand for themselves."""
        ...

    def close(self) -> None:
        """Flush all records; no more follow."""
        ...


class MetricsLog:
    """Appends to ``metrics.jsonl`` and hands copies to the sinks."""

    def __init__(
        self,
        run_dir: Path,
        attempt: int,
        sinks: Sequence[MetricsSink] | None = None,
        *,
        verl_stage: str | None = None,
    ) -> None:
        """``verl_stage``: the stage whose figures sinks also get under verl's names, which know no
        stages."""
        self._attempt, self._verl_stage = attempt, verl_stage
        self.num_written = 0
        """Records so far."""
        self._file = _open_whole_lines(run_dir / "metrics.jsonl")
        self._sinks: list[MetricsSink] = (
            [TensorBoardSink(run_dir)] if sinks is None else list(sinks)
        )

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One step's numbers."""
        line = {"stage": stage, "step": step, "attempt": self._attempt, "time": time.time()}
        self._file.write((to_json({**line, **values}) + "\n").encode())
        self.num_written += 1
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        aliases = verl_names(values) if stage == self._verl_stage else {}
        for sink in list(self._sinks):
            try:
                sink.write(stage, step, values)
                if aliases:
                    sink.write("", step, aliases)
            except Exception as error:  # noqa: BLE001  (other people's loggers and networks)
                self._drop(sink, error)

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        for sink in list(self._sinks):
            try:
                sink.close()
            except Exception as error:  # noqa: BLE001  (other people's loggers and networks)
                self._drop(sink, error)
        self._sinks.clear()

    def _drop(self, sink: MetricsSink, error: Exception) -> None:
        self._sinks.remove(sink)
        log.warning("%s failed and gets no more figures: %r", type(sink).__name__, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TensorBoardSink:
    """TensorBoard's event files."""

    def __init__(self, run_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(run_dir / "tensorboard"))
        self._names = dashboard_names()

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One event per number."""
        for name, value in values.items():
            self._board.add_scalar(self._names.of(tag(stage, name)), value, step)
        self._board.flush()

    def close(self) -> None:
        """Flush and close."""
        self._board.close()


def tag(stage: str, name: str) -> str:
    """The name under which a dashboard shows a figure of a stage."""
    return f"{stage}/{name}" if stage else name


def _open_whole_lines(path: Path) -> "_Appending":
    """Open a file to append lines to; cut off half a line that a killed process left."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
    return _Appending(path)


class _Appending:
    """Unbuffered file to append to: closing it does not repeat a write that a full disk refused."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, line: bytes) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line) or 0
            if written < len(line):  # the disk filled up in the middle: this says so
                self._file.write(line[written:])
        except OSError as error:
            os.truncate(self._path, end)
            error.filename = str(self._path)
            raise

    def close(self) -> None:
        self._file.close()


class Stopwatch:
    """Seconds per phase of a step: ``with watch("rollout"): ...``; each is a span of the driver's
    track, too."""

    def __init__(self, timeline: Timeline | None = None) -> None:
        self._timeline = timeline or NoTimeline()
        self._span: OpenSpan | None = None
        self.seconds: dict[str, float] = {}
        self._phase = ""
        self._start = 0.0

    def __call__(self, phase: str) -> Self:
        self._phase = phase
        return self

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        self._span = self._timeline.begin(DRIVER, self._phase)
        return self

    def __exit__(self, *_: object) -> None:
        spent = time.perf_counter() - self._start
        if self._span is not None:
            self._timeline.end(self._span)
        self.add(self._phase, spent)

    def add(self, phase: str, seconds: float) -> None:
        """Add seconds measured by other code to a phase."""
        key = f"timing_s/{phase}"
        self.seconds[key] = self.seconds.get(key, 0.0) + seconds
