from pathlib import Path

import pytest

from calibrate.service.config import ServiceConfig
from cluster.classify.machine import Machine
from cluster.serving.backend import ProcessBackend
from cluster.serving.parts import RayCluster, service_parts
from wire.errors import ConfigError


def test_classifiers_have_the_first_gpus_that_fits_have_not(tmp_path: Path):
    config = ServiceConfig(state=tmp_path, fit_gpus=(0, 2), max_loaded=2)
    parts = service_parts(Machine(num_gpus=2), range(5), config)
    assert isinstance(parts.backend, ProcessBackend)
    assert parts.backend.machine.gpus == (1, 3)
    assert parts.backend.machine.max_loaded == 2


@pytest.mark.parametrize(
    ("fit_gpus", "words"), [((1, 2), "leaves 1 of 3 GPUs"), ((3,), "there are 3 GPUs")]
)
def test_fits_that_leave_too_few_gpus_are_refused(
    tmp_path: Path, fit_gpus: tuple[int, ...], words: str
):
    config = ServiceConfig(state=tmp_path, fit_gpus=fit_gpus)
    with pytest.raises(ConfigError, match=words):
        service_parts(Machine(num_gpus=2), range(3), config)


def test_replicas_are_a_number_or_two(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert RayCluster.of("", "2") == RayCluster(address=None, least=2, most=2)
    assert RayCluster.of("head:6379", "1-4") == RayCluster(address="head:6379", least=1, most=4)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert RayCluster.of("", "1").address == "auto"
    for wrong in ("0", "4-1", "many", "1-"):
        with pytest.raises(ConfigError, match=f"--replicas {wrong}: expected a number"):
            RayCluster.of("", wrong)
