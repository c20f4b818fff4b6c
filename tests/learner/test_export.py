"""A checkpoint becomes a Hugging Face directory without the learner that saved it: the tensors that
this learner would have exported. (Exports of a learner itself: test_zero.py.)"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from learner import checkpoint
from learner import checkpoint_fragments as fragments
from learner.config import LearnerConfig, LoraConfig, OptimConfig
from learner.engine import LORA_FILE
from learner.export import AdapterFacts, adapter_facts, export_checkpoint
from learner.model.lora import adapt, weight_parts
from learner.model.policy import Policy
from learner.model.trained_parts import freeze, frozen_parts
from tests.learner.rank_actors import Ranks
from wire.errors import CheckpointDamaged, ConfigError

TAG = "step-000002"


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    meeting = (tmp_path / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def save_trained(model_dir: Path, folder: Path, config: LearnerConfig) -> Policy:
    """The checkpoint of a policy whose trained parameters have moved, by torch alone."""
    policy = Policy.load(model_dir, "float32")
    if config.lora is not None:
        adapt(policy.vlm, config.lora, frozen_parts(config))
    else:
        freeze(policy, frozen_parts(config))
    torch.manual_seed(3)
    trained = [p for p in policy.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data += 0.01 * torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(trained)
    engine: Any = SimpleNamespace(module=policy, optimizer=optimizer, basic_optimizer=optimizer)

    def write(partial: Path) -> None:
        fragments.write(engine, partial)
        lora = config.lora.shape if config.lora else "none"
        (partial / LORA_FILE).write_text(json.dumps(lora))

    checkpoint.save(write, folder, TAG, config.zero_stage, config.dtype)
    return policy


def exported(folder: Path) -> dict[str, torch.Tensor]:
    """As they are read again."""
    return dict(Policy.load(folder, "auto").vlm.named_parameters())


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, alpha=4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_is_exported_with_its_trained_and_its_frozen_weights(
    one_rank: None, model_dir: Path, tmp_path: Path, dtype: Any, lora: LoraConfig | None
):
    config = LearnerConfig(dtype=dtype, lora=lora)
    policy = save_trained(model_dir, tmp_path / "grpo", config)
    export_checkpoint(tmp_path / "grpo" / TAG, model_dir, config, tmp_path / "model")
    found, start = exported(tmp_path / "model"), exported(model_dir)
    assert all(tensor.dtype == getattr(torch, dtype) for tensor in found.values())
    changed = {name for name, tensor in found.items() if not torch.equal(tensor, start[name])}
    assert any("language_model" in name for name in changed)
    assert all("visual" not in name for name in changed if dtype == "float32")  # frozen
    # in bfloat16 an adapter is rounded before it is multiplied out, as engines have it
    gap = 0.02 if lora and dtype == "bfloat16" else 0.0
    for part in weight_parts(policy.vlm, "merged"):
        expected = part.make().to(getattr(torch, dtype))
        torch.testing.assert_close(found[part.name].detach(), expected, rtol=gap, atol=gap / 10)


@pytest.mark.parametrize(
    "lora", [LoraConfig(rank=2), LoraConfig(rank=4, target_modules=("v_proj",))]
)
def test_facts_of_an_adapter_count_its_numbers_and_notice_a_change_of_the_model(
    one_rank: None, model_dir: Path, lora: LoraConfig
):
    policy = Policy.load(model_dir, "float32")
    whole = sum(p.numel() for p in policy.vlm.parameters())
    adapt(policy.vlm, lora, frozen_parts(LearnerConfig(lora=lora)))

    def facts() -> AdapterFacts:
        parts = {kind: weight_parts(policy.vlm, kind) for kind in ("base", "adapter")}
        engine: Any = SimpleNamespace(
            full_parameters=lambda kind: ((part.name, part.make()) for part in parts[kind]),
            weight_shapes=lambda kind: [(p.name, p.parameters[0].shape) for p in parts[kind]],
        )
        return adapter_facts(engine)

    before = facts()
    trained = [p for p in policy.parameters() if p.requires_grad]
    assert before.num_trained == sum(p.numel() for p in trained)
    assert before.num_frozen == whole
    for parameter in trained:
        parameter.data += 1
    assert facts() == before
    next(p for p in policy.parameters() if not p.requires_grad).data.flatten()[0] += 1
    assert facts().base_digest != before.base_digest


def test_a_damaged_checkpoint_is_not_exported(one_rank: None, model_dir: Path, tmp_path: Path):
    save_trained(model_dir, tmp_path / "grpo", LearnerConfig(dtype="float32"))
    (state,) = (tmp_path / "grpo" / TAG).glob("rank-*")
    raw = bytearray(state.read_bytes())
    raw[-5] ^= 1
    state.write_bytes(raw)
    with pytest.raises(CheckpointDamaged, match=f"{state.name} has other bytes"):
        export_checkpoint(
            tmp_path / "grpo" / TAG, model_dir, LearnerConfig(dtype="float32"), tmp_path / "model"
        )
    assert not (tmp_path / "model").exists()


def test_the_checkpoint_of_another_learner_is_not_exported(
    one_rank: None, model_dir: Path, tmp_path: Path
):
    save_trained(model_dir, tmp_path / "grpo", LearnerConfig(dtype="float32"))
    folder = tmp_path / "grpo" / TAG
    with_lora = LearnerConfig(dtype="float32", lora=LoraConfig(rank=2, alpha=4))
    with pytest.raises(ConfigError, match=r"learner\.lora is rank 2.* the checkpoint has none"):
        export_checkpoint(folder, model_dir, with_lora, tmp_path / "model")
    tower = LearnerConfig(dtype="float32", freeze_vision_tower=False)
    with pytest.raises(ConfigError, match="other trained parameters"):
        export_checkpoint(folder, model_dir, tower, tmp_path / "model")


@pytest.fixture(scope="module")
def pair(ray_session: None) -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.stop()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "dtype", "lora"),
    [(0, "float32", None), (1, "bfloat16", None), (2, "float32", None), (3, "bfloat16", None),
     (0, "bfloat16", {"rank": 4, "alpha": 8}), (3, "float32", {"rank": 4, "alpha": 8})],
)  # fmt: skip
def test_a_checkpoint_of_any_zero_stage_gives_the_bits_of_its_learners_own_export(
    pair: Ranks, model_dir: Path, tmp_path: Path, stage: int, dtype: Any, lora: Any
):
    """Saved by DeepSpeed on two ranks, after two updates."""
    settings: dict[str, Any] = {"zero_stage": stage, "dtype": dtype, "lora": lora}
    pair.start(model_dir, OptimConfig(learning_rate=1e-2), **settings, max_tokens_per_batch=10_000)
    pair.train(1e-2, 1e-2)
    pair.all("call", "export", str(tmp_path / "learner"))
    pair.all("call", "save", str(tmp_path), TAG, {})
    config = LearnerConfig(num_ranks=2, **settings)
    export_checkpoint(tmp_path / TAG, model_dir, config, tmp_path / "checkpoint")
    found, expected = exported(tmp_path / "checkpoint"), exported(tmp_path / "learner")
    start = exported(model_dir)
    assert any(not torch.equal(tensor, start[name]) for name, tensor in expected.items())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
