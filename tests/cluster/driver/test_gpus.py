"""Counting GPUs with and without a driver."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cluster.driver.gpus import count_gpus


def test_without_a_driver_torch_is_not_imported():
    script = (
        "import sys; from cluster.driver.gpus import count_gpus; n = count_gpus(('/no/driver',)); "
        "sys.exit(n or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_with_a_driver_torch_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    driver = tmp_path / "driver"
    driver.touch()
    assert count_gpus((str(driver),)) == 3


def test_this_machine_is_counted_as_torch_counts_it():
    assert count_gpus() == torch.cuda.device_count()
