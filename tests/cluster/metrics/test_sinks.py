"""The real packages, without a network: W&B offline, MLflow into a folder, Ray's endpoint."""

import importlib.util
import json
import logging
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.config.logging import LoggingConfig, MlflowConfig, WandbConfig
from cluster.metrics import sinks as loggers
from cluster.metrics.prometheus_sink import PrometheusSink
from cluster.metrics.sinks import Background, MlflowSink, WandbSink, check_logging
from tests.cluster.metrics.test_sink_names import ODD
from wire.config import validate
from wire.errors import ConfigError

ODD_NAMES = [f"label/{label}/accuracy" for label in ODD]
ODD_NAMES += [f"reward/{part}/mean" for part in ODD]
ODD_NAMES += ["label/a/reward", "label/a/reward/format", "learning_rate", "learning_rate/merger"]
SETTINGS = {"grpo": {"num_steps": 80}, "seed": 1}


def logging_of(**values: Any) -> LoggingConfig:
    return validate(LoggingConfig, values, "recipe")


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody's own settings or keys."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-own"))


@pytest.mark.parametrize(
    ("package", "values"), [("wandb", {"project": "p"}), ("mlflow", {"experiment": "e"})]
)
def test_a_missing_package_is_said_with_its_extra(
    package: str, values: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else found(name)
    )
    with pytest.raises(ConfigError, match=rf"pip install deepintuit\[{package}\]"):
        check_logging(logging_of(**{package: values}))
    check_logging(logging_of())


def test_wandb_without_a_key_is_refused_before_it_could_ask_for_one():
    with pytest.raises(ConfigError, match=r"wandb login.*offline"):
        check_logging(logging_of(wandb={"project": "p"}))
    check_logging(logging_of(wandb={"project": "p", "mode": "offline"}))


def test_mlflow_without_a_place_to_write_to_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="tracking_uri"):
        check_logging(logging_of(mlflow={"experiment": "e"}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    check_logging(logging_of(mlflow={"experiment": "e"}))


def records(folder: Path) -> list[Any]:
    """All records of an offline W&B run, read back from its file (LevelDB's log format)."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    data, at, payload, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the end of a block holds no header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        payload += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(payload)
            found.append(record)
            payload = b""
    return found


@pytest.mark.slow
def test_wandb_offline_writes_a_run_that_a_resumed_run_goes_on_in(tmp_path: Path):
    config = WandbConfig(project="shapes", mode="offline")
    for step in (1, 2):  # an attempt each
        sink = WandbSink(config, tmp_path, SETTINGS)
        sink.write("grpo", step, {"reward/mean": 1.0 + step})
        sink.write("", step, {"critic/rewards/mean": 1.0 + step})
        sink.write("odd", step, {name: float(number) for number, name in enumerate(ODD_NAMES)})
        sink.close()
        time.sleep(1.1)  # W&B names its folders by the second
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    rows, ids, keys = [], set(), set()
    for folder in folders:
        for record in records(folder):
            if record.HasField("history"):
                items = record.history.item
                rows.append(
                    {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                )
            if record.HasField("run"):
                ids.add(record.run.run_id)
                keys |= {update.key for update in record.run.config.update}
                assert record.run.project == "shapes"
    assert len(ids) == 1
    assert {"grpo", "seed"} <= keys
    steps = [(row["grpo/step"], row["grpo/reward/mean"]) for row in rows if "grpo/step" in row]
    assert steps == [(1, 2.0), (2, 3.0)]
    assert [row["critic/rewards/mean"] for row in rows if "step" in row] == [2.0, 3.0]
    odd = [row for row in rows if "odd/step" in row]
    for row in odd:
        values = [value for key, value in row.items() if key.startswith("odd/")]
        assert sorted(values) == sorted([*range(len(ODD_NAMES)), row["odd/step"]])
    assert len(odd) == 2


@pytest.mark.slow
def test_wandb_without_a_network_writes_offline_after_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")  # nobody listens
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(loggers, "_START_S", 3.0)
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # or it keeps the address that another test has read
    with caplog.at_level(logging.WARNING):
        sink = WandbSink(WandbConfig(project="shapes"), tmp_path, SETTINGS)
        sink.write("grpo", 1, {"reward/mean": 2.0})
        sink.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len([r for r in caplog.records if r.name == "cluster.metrics.sinks"]) == 1


def test_mlflow_keeps_figures_and_settings_and_a_resumed_run_goes_on(tmp_path: Path):
    from mlflow import MlflowClient

    uri = (tmp_path / "store").as_uri()
    config = MlflowConfig(experiment="shapes", tracking_uri=uri)
    for step in (1, 2):
        sink = MlflowSink(config, tmp_path, SETTINGS)
        sink.write("grpo", step, {"reward/mean": 1.0 + step})
        sink.close()
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("shapes")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"grpo.num_steps": "80", "seed": "1"}
    history = client.get_metric_history(run.info.run_id, "grpo/reward/mean")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 3.0)]


def test_mlflow_keeps_every_figure_whatever_its_name(tmp_path: Path):
    from mlflow import MlflowClient

    uri = (tmp_path / "store").as_uri()
    sink = MlflowSink(MlflowConfig(experiment="e", tracking_uri=uri), tmp_path, {})
    sink.write("grpo", 1, {name: float(number) for number, name in enumerate(ODD_NAMES)})
    sink.close()
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()]
    )
    assert sorted(run.data.metrics.values()) == [float(n) for n in range(len(ODD_NAMES))]
    assert run.data.metrics["grpo/label/a/reward"] == ODD_NAMES.index("label/a/reward")


class Slow:
    """A sink whose server does not answer."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self.asked.set()
        time.sleep(3600)

    def close(self) -> None:
        raise AssertionError("it never gets there")


def test_no_step_waits_for_a_server_and_the_end_only_so_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(loggers, "_CLOSE_S", 0.2)
    slow = Slow()
    sink = Background("MLflow", lambda: slow)
    before = time.monotonic()
    for step in range(100):
        sink.write("grpo", step, {"kl": 0.0})
    assert slow.asked.wait(5)
    sink.close()
    assert time.monotonic() - before < 2
    assert "did not take everything" in caplog.text


def test_a_server_that_is_not_there_is_one_warning(caplog: pytest.LogCaptureFixture):
    def refuse() -> Any:
        raise ConnectionError("refused")

    sink = Background("MLflow", refuse)
    for step in range(3):
        sink.write("grpo", step, {"kl": 0.0})
    sink.close()
    sink.write("grpo", 4, {"kl": 0.0})
    assert len(caplog.records) == 1


@pytest.fixture
def local_ray() -> Iterator[Callable[[], str]]:
    """A Ray, of this test's own if none is up; gives what its node's metrics agent exports."""
    import ray

    own = not ray.is_initialized()
    if own:
        memory = 100 * 2**20
        ray.init(address="local", include_dashboard=False, num_cpus=1, object_store_memory=memory)
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def scrape() -> str:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())

    yield scrape
    if own:
        ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_prometheus_finds_the_figures_at_rays_own_endpoint(local_ray: Callable[[], str]):
    sink = PrometheusSink("run-1")
    for step in (1, 2):
        sink.write("grpo", step, {"reward/mean": 1.0 + step, "timing_s/step": 2.5})
    sink.write("grpo", 1, {"val/accuracy": 0.5})
    sink.write("", 2, {"critic/rewards/mean": 3.0})
    sink.write(
        "grpo", 3, {"label/caf\u00e9 100%/accuracy": 0.25, "label/caf\u00e8 100%/accuracy": 0.5}
    )
    lines: list[str] = []
    deadline = time.monotonic() + 60
    # Ray exports each metric at its own time
    while sum("caf" in line and "{" in line for line in lines) < 2 and time.monotonic() < deadline:
        time.sleep(1)
        lines = [line for line in local_ray().splitlines() if "deepintuit" in line]
    values = {line.partition("{")[0]: line.rpartition(" ")[2] for line in lines if "{" in line}
    assert float(values["ray_deepintuit_reward_mean"]) == 3.0
    assert float(values["ray_deepintuit_step"]) == 3.0
    assert float(values["ray_deepintuit_val_accuracy"]) == 0.5
    (steps,) = [float(v) for name, v in values.items() if name.startswith("ray_deepintuit_steps")]
    assert steps == 3.0, "a validation is no step"
    assert float(values["ray_deepintuit_step_seconds_count"]) == 2.0  # Ray guesses sums by buckets
    assert all('run="run-1"' in line and 'stage="grpo"' in line for line in lines if "{" in line)
    assert not any("critic" in name for name in values)
    labels = [float(v) for name, v in values.items() if "_label_caf_100_accuracy_" in name]
    assert sorted(labels) == [0.25, 0.5]
