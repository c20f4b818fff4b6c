import pytest

from cluster.classify.machine import Machine, machine_of
from wire.errors import ConfigError


def of(monkeypatch: pytest.MonkeyPatch, there: int, device: str, num_gpus: int = 1) -> Machine:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    return machine_of(
        device=device,  # type: ignore[arg-type]
        num_gpus=num_gpus,
        gpu_memory=0.9,
        in_flight=8,
        cache_dir=None,
    )


def test_gpus_are_used_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of(monkeypatch, 4, "auto", 2).num_gpus == 2
    assert of(monkeypatch, 4, "cpu").num_gpus == 0
    machine = of(monkeypatch, 0, "auto")
    assert machine.num_gpus == 0
    assert str(machine).startswith("CPU, ")
    assert str(of(monkeypatch, 2, "cuda", 2)) == "2 GPUs"


def test_more_gpus_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for device, there, asked in (("cuda", 0, 1), ("auto", 1, 2)):
        with pytest.raises(ConfigError, match=f"{asked} GPUs are asked for, PyTorch sees {there}"):
            of(monkeypatch, there, device, asked)


def test_shares_and_counts_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        Machine(gpu_memory=1.5)
    with pytest.raises(ConfigError, match="expected 1 or more"):
        Machine(in_flight=0)
