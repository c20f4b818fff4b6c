"""Metrics to Prometheus, through Ray."""

from collections.abc import Mapping
from typing import Any

from cluster.metrics.catalogue import describe
from cluster.metrics.metrics_file import is_validation
from cluster.metrics.sink_names import prometheus_names


class PrometheusSink:
    """Gauges in Ray's metrics, which every node's agent exports; a counter and times of steps."""

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Counter, Histogram

        self._run = run
        self._gauges: dict[str, Any] = {}
        self._names = prometheus_names()
        tags = ("run", "stage")
        self._steps = Counter("deepintuit_steps", "Steps written.", tag_keys=tags)
        self._seconds = Histogram(
            "deepintuit_step_seconds",
            "Seconds of a step.",
            boundaries=[0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000],
            tag_keys=tags,
        )

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """The latest value of each figure; verl's names stay out."""
        if not stage:
            return
        tags = {"run": self._run, "stage": stage}
        if not is_validation(values):  # which comes beside the steps, and after its own
            self._steps.inc(1.0, tags=tags)
            self._gauge("step").set(step, tags=tags)
        if "timing_s/step" in values:
            self._seconds.observe(values["timing_s/step"], tags=tags)
        for name, value in values.items():
            self._gauge(name).set(value, tags=tags)

    def close(self) -> None:
        """Nothing is pending here; Ray's agent ends with Ray."""

    def _gauge(self, name: str) -> Any:
        from ray.util.metrics import Gauge

        if name not in self._gauges:
            metric = describe(name)
            about, own = metric.meaning if metric else name, self._names.of(name)
            self._gauges[name] = Gauge(f"deepintuit_{own}", about, tag_keys=("run", "stage"))
        return self._gauges[name]
