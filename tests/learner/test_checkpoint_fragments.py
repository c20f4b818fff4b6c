"""What one optimiser writes another reads, with stand-ins for DeepSpeed's optimisers that cut a
parameter as ZeRO does. (With DeepSpeed itself: test_checkpoint.py.)"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from learner import checkpoint_fragments as fragments
from wire.errors import ConfigError


@pytest.fixture(autouse=True)
def _one_rank(tmp_path: Path) -> Iterator[None]:
    meeting = (tmp_path / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def make_module(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    module[1].bias.requires_grad_(False).zero_()  # comes from the model directory
    return module


def plain_engine(seed: int) -> Any:
    """As DeepSpeed's without ZeRO in float32: torch's optimiser on the parameters."""
    module = make_module(seed)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, fused=True)
    return SimpleNamespace(module=module, optimizer=optimizer, basic_optimizer=optimizer)


class FlatOptimizer:
    """As DeepSpeed's of ZeRO 1 and 2 on one rank: a flat, padded float32 copy of each group."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self._parameters = parameters
        numbers = sum(p.numel() for p in parameters)
        flat = torch.zeros(numbers + 3)
        offset = 0
        for parameter in parameters:
            flat[offset : offset + parameter.numel()] = parameter.detach().flatten()
            parameter._hp_mapping = SimpleNamespace(
                lp_fragment_address=SimpleNamespace(start=0, numel=parameter.numel()),
                hp_fragment_address=SimpleNamespace(start=offset, numel=parameter.numel()),
                param_group_index=0,
            )
            offset += parameter.numel()
        self.single_partition_of_fp32_groups = [flat.requires_grad_()]
        self.torch = torch.optim.AdamW([flat], lr=0.1, fused=True)

    def step(self) -> None:
        flat = self.single_partition_of_fp32_groups[0]
        flat.grad = torch.zeros_like(flat)
        for p in self._parameters:
            start = p._hp_mapping.hp_fragment_address.start
            flat.grad[start : start + p.numel()] = p.grad.flatten()
        self.torch.step()
        self.update_lp_params()

    def update_lp_params(self) -> None:
        flat = self.single_partition_of_fp32_groups[0].detach()
        for p in self._parameters:
            start = p._hp_mapping.hp_fragment_address.start
            p.data.copy_(flat[start : start + p.numel()].view_as(p))


def flat_engine(seed: int) -> Any:
    module = make_module(seed)
    optimizer = FlatOptimizer([p for p in module.parameters() if p.requires_grad])
    return SimpleNamespace(module=module, optimizer=optimizer, basic_optimizer=optimizer.torch)


def train(engine: Any, steps: int) -> None:
    for number in range(steps):
        engine.module.zero_grad()
        engine.module(torch.full((2, 3), 1.0 + number)).square().sum().backward()
        engine.optimizer.step()


def weights(engine: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in engine.module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("after", [plain_engine, flat_engine])
@pytest.mark.parametrize("before", [plain_engine, flat_engine])
def test_another_optimiser_goes_on_with_the_same_training(before: Any, after: Any, tmp_path: Path):
    """The same bits are loaded; further updates round as the tensors' lengths make kernels do."""
    writer, reader = before(1), after(2)
    train(writer, 3)
    fragments.write(writer, tmp_path / "state")
    fragments.read(reader, tmp_path / "state")
    found, expected = weights(reader), weights(writer)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    train(writer, 2)
    train(reader, 2)
    found, expected = weights(reader), weights(writer)
    tolerance = 0.0 if before is after else 1e-6
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=tolerance)


def test_a_parameter_is_put_together_from_the_parts_of_many_ranks(tmp_path: Path):
    """Written in pieces of 7 elements, in any order, over several files."""
    from safetensors.torch import load_file, save_file

    writer, reader = plain_engine(1), plain_engine(2)
    train(writer, 2)
    fragments.write(writer, tmp_path / "whole")
    parts: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    for key, tensor in load_file(tmp_path / "whole/rank-00000-000.safetensors").items():
        name, _, kind = key.split("|")
        if tensor.dim() == 0:
            parts[0][key] = tensor
            continue
        for number, piece in enumerate(tensor.split(7)):
            parts[(number + 1) % 3][f"{name}|{7 * number}|{kind}"] = piece.clone()
    (tmp_path / "parts").mkdir()
    for rank, tensors in enumerate(parts):
        save_file(tensors, tmp_path / f"parts/rank-{rank:05d}-000.safetensors")
    fragments.read(reader, tmp_path / "parts")
    train(writer, 1)
    train(reader, 1)
    found, expected = weights(reader), weights(writer)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_large_state_is_written_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fragments, "_FILE_BYTES", 40)
    writer, reader = plain_engine(1), plain_engine(2)
    train(writer, 1)
    fragments.write(writer, tmp_path / "state")
    assert len(list((tmp_path / "state").iterdir())) > 2
    fragments.read(reader, tmp_path / "state")
    found, expected = weights(reader), weights(writer)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_other_trained_parameters_are_refused_and_change_nothing(tmp_path: Path):
    writer, reader = plain_engine(1), plain_engine(2)
    train(writer, 1)
    fragments.write(writer, tmp_path / "state")
    reader.module[1].bias.requires_grad_(True)
    before = weights(reader)
    with pytest.raises(ConfigError, match=r"other trained parameters, 1\.bias among 1"):
        fragments.read(reader, tmp_path / "state")
    after = weights(reader)
    assert all(torch.equal(after[name], before[name]) for name in before)
