"""Metric sinks for W&B, MLflow, and Prometheus through Ray.

    [logging] -> check_logging (before anything starts) -> open_metrics -> MetricsLog

Their packages are imported only when asked for. What goes over a network is written by a thread of
its own, so that no step waits for it. Which run of theirs is ours is kept in ``loggers.json``: a
resumed run goes on in it.
"""

import importlib.util
import json
import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.config.controls import main_stages
from cluster.config.logging import LoggingConfig, MlflowConfig, WandbConfig
from cluster.config.recipe import RunConfig
from cluster.metrics.metrics_log import MetricsLog, MetricsSink, TensorBoardSink, tag
from cluster.metrics.prometheus_sink import PrometheusSink
from cluster.metrics.sink_names import dashboard_names, mlflow_names
from wire.config import flatten
from wire.errors import ConfigError
from wire.http_faults import in_words
from wire.printable import printable
from wire.whole_file import write_json

log = logging.getLogger(__name__)

_IDS = "loggers.json"
_CLOSE_S = 20.0  # what is still on its way when the run ends
_QUEUE = 10_000  # steps that may wait for a slow server; more are left out
_LOGIN = "mend WANDB_API_KEY, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
_START_S = 60.0  # for a server to answer at first


def check_logging(config: LoggingConfig) -> None:
    """Raise ConfigError if a logger's package is not installed, or it lacks a key or an address."""
    for package, wanted in (("wandb", config.wandb), ("mlflow", config.mlflow)):
        if wanted is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"logging.{package} is set, but the package {package} is not installed; "
                f"pip install deepintuit[{package}], or take logging.{package} out"
            )
    if config.mlflow is not None and not _tracking_uri(config.mlflow):
        raise ConfigError(
            "logging.mlflow has no place to write to; give tracking_uri, such as "
            '"http://server:5000" or "file:///shared/mlruns", or set MLFLOW_TRACKING_URI'
        )
    if config.wandb is not None and _wandb_mode(config.wandb) == "online":
        import wandb

        if wandb.api.api_key is None:
            raise ConfigError(
                "logging.wandb has no key to log in with; run `wandb login` or set WANDB_API_KEY, "
                'or give mode = "offline"'
            )


def open_metrics(config: RunConfig, run_dir: Path, attempt: int) -> MetricsLog:
    """Open the metrics log of a run with all its sinks. Ray must be up. A sink that does not open
    is left out with a warning."""
    asked = config.logging
    sinks: list[MetricsSink] = [TensorBoardSink(run_dir)]

    def add(name: str, make: Callable[[], MetricsSink]) -> None:
        try:
            sinks.append(make())
        except Exception as error:  # noqa: BLE001  (other people's loggers and networks)
            log.warning("%s did not open and gets no figures: %s", name, in_words(error, _LOGIN))

    settings = config.model_dump(mode="json")
    if (wandb := asked.wandb) is not None:
        add("W&B", lambda: WandbSink(wandb, run_dir, settings))
    if (mlflow := asked.mlflow) is not None:
        add("MLflow", lambda: Background("MLflow", lambda: MlflowSink(mlflow, run_dir, settings)))
    if asked.prometheus:
        add("Prometheus", lambda: PrometheusSink(printable(run_dir.name)))
    verl_stage = main_stages(config.chain).grpo if asked.verl_names else None
    return MetricsLog(run_dir, attempt, sinks, verl_stage=verl_stage)


class WandbSink:
    """Weights & Biases. Its own process does the sending and tries again by itself."""

    def __init__(self, config: WandbConfig, run_dir: Path, settings: Mapping[str, Any]) -> None:
        self._run = _start_wandb(config, run_dir, settings)
        self._stages: set[str] = set()
        self._names = dashboard_names()

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One step's numbers; a stage's have its own steps as their axis."""
        axis = tag(stage, "step") if stage else "step"
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(axis, hidden=True)
            if stage:
                self._run.define_metric(f"{stage}/*", step_metric=axis)
        named = {self._names.of(tag(stage, name)): value for name, value in values.items()}
        self._run.log(named | {axis: step})

    def close(self) -> None:
        """Wait for what is on its way, not for ever."""
        closing = threading.Thread(target=self._run.finish, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        if closing.is_alive():
            raise TimeoutError(f"W&B did not take everything within {_CLOSE_S:.0f} s")


def _start_wandb(config: WandbConfig, run_dir: Path, settings: Mapping[str, Any]) -> Any:
    import wandb

    def start(mode: Any) -> Any:  # W&B judges what WANDB_MODE holds
        return wandb.init(
            project=config.project,
            entity=config.entity,
            name=config.name or printable(run_dir.name),
            tags=config.tags,
            id=_remember(run_dir, "wandb", lambda: uuid.uuid4().hex[:12]),
            resume="allow",
            dir=str(run_dir),
            config=dict(settings),
            mode=mode,
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=_START_S,
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
            ),
        )

    mode = _wandb_mode(config)
    try:
        return start(mode)
    except Exception as error:
        if mode != "online":
            raise
        why = in_words(error, _LOGIN)
        log.warning("W&B cannot be reached, writing to %s/wandb instead: %s", run_dir, why)
        wandb.teardown()  # its process still has the run that did not start
        return start("offline")


def _wandb_mode(config: WandbConfig) -> str:
    return os.environ.get("WANDB_MODE") or config.mode


class MlflowSink:
    """MLflow, by its client alone: no global state."""

    def __init__(self, config: MlflowConfig, run_dir: Path, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        uri = _tracking_uri(config)
        if "://" not in uri or uri.startswith("file:"):  # a folder: MLflow wants to be told twice
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = MlflowClient(tracking_uri=uri)
        self._run_id = _remember(run_dir, "mlflow", lambda: self._create(config, run_dir, settings))
        self._client.update_run(self._run_id, status="RUNNING")
        self._names = mlflow_names()

    def _create(self, config: MlflowConfig, run_dir: Path, settings: Mapping[str, Any]) -> str:
        from mlflow.entities import Param

        client = self._client
        known = client.get_experiment_by_name(config.experiment)
        experiment = known.experiment_id if known else client.create_experiment(config.experiment)
        run = client.create_run(experiment, run_name=config.name or printable(run_dir.name))
        flat = [Param(name, str(value)[:6000]) for name, value in flatten(settings).items()]
        for start in range(0, len(flat), 100):  # the most that a server takes at once
            client.log_batch(run.info.run_id, params=flat[start : start + 100])
        return str(run.info.run_id)

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One request per step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(self._names.of(tag(stage, name)), value, now, step)
            for name, value in values.items()
        ]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + 1000])

    def close(self) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._run_id)


def _tracking_uri(config: MlflowConfig) -> str:
    return config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")


class Background:
    """Wraps a sink: a thread of its own opens, writes and closes it."""

    def __init__(self, name: str, make: Callable[[], MetricsSink]) -> None:
        self._name, self._make = name, make
        self._queue: queue.Queue[tuple[str, int, dict[str, float]] | None] = queue.Queue(_QUEUE)
        self._failed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Queue a record without waiting; drop it if the queue is full or the sink has failed."""
        if self._failed:
            return
        try:
            self._queue.put_nowait((stage, step, dict(values)))
        except queue.Full:
            self._fail("its server is too slow")

    def close(self) -> None:
        """Wait for what is on its way, not for ever."""
        if not self._failed:
            self._queue.put(None)
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            self._fail(f"it did not take everything within {_CLOSE_S:.0f} s")

    def _work(self) -> None:
        try:
            sink = self._make()
            while (one := self._queue.get()) is not None:
                sink.write(*one)
            sink.close()
        except Exception as error:  # noqa: BLE001  (other people's loggers and networks)
            self._fail(in_words(error, _LOGIN))

    def _fail(self, why: str) -> None:
        if not self._failed:
            self._failed = True
            log.warning("%s failed and gets no more figures: %s", self._name, why)


def _remember(run_dir: Path, logger: str, make: Callable[[], str]) -> str:
    """Id of the run at a logger: that of an earlier attempt, or a new one."""
    file = run_dir / _IDS
    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    if logger not in known:
        known[logger] = make()
        write_json(file, known)
    return known[logger]
