"""LoRA without an engine: which layers, what is trained, what leaves the learner."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from learner.config import LearnerConfig, LoraConfig
from learner.model.lora import adapt, adapter_config, adapter_off, check_targets, weight_parts
from learner.model.policy import Policy
from learner.model.trained_parts import Part
from tests.tiny_models import MODEL_TYPES, write_tiny_model
from video.families import FAMILIES
from wire.adapters import CONFIG_NAME, WEIGHTS_NAME, AdapterFiles
from wire.config import validate
from wire.errors import ConfigError, WeightUpdateError

FROZEN = (Part.MERGER, Part.VISION_TOWER)
IDS = torch.tensor([[50, 61, 72, 83, 94]])


@pytest.fixture(scope="module", params=MODEL_TYPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), "qwen2_5_vl")


def load(folder: Path, tower: bool = False, **config: Any) -> nn.Module:
    vlm: nn.Module = Policy.load(folder, "float32").vlm
    adapt(vlm, LoraConfig(**{"rank": 4, "alpha": 8, **config}), [] if tower else FROZEN)
    return vlm


def disturb(vlm: nn.Module) -> nn.Module:
    """As if trained: every B is drawn anew."""
    torch.manual_seed(1)
    for name, parameter in vlm.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)
    return vlm


@torch.no_grad()
def logits(vlm: Any) -> Tensor:
    return vlm(input_ids=IDS).logits


def reopen(folder: Path) -> Any:
    return Policy.load(folder, "float32").vlm


def test_a_new_adapter_changes_nothing_and_a_trained_one_off_neither(folder: Path):
    base, vlm = logits(reopen(folder)), load(folder)
    assert torch.equal(logits(vlm), base)
    disturb(vlm)
    assert not torch.allclose(logits(vlm), base, atol=1e-2)
    with adapter_off(vlm):
        assert torch.equal(logits(vlm), base)
    assert not torch.allclose(logits(vlm), base, atol=1e-2)


def test_switching_the_adapter_off_leaves_what_is_trained(folder: Path):
    vlm = load(folder)
    trained = [n for n, p in vlm.named_parameters() if p.requires_grad]
    with adapter_off(vlm):
        assert [n for n, p in vlm.named_parameters() if p.requires_grad] == trained
    assert [n for n, p in vlm.named_parameters() if p.requires_grad] == trained


def test_only_additions_to_the_language_model_train(folder: Path):
    trained = {n for n, p in load(folder).named_parameters() if p.requires_grad}
    assert all(".lora_" in name and "language_model" in name for name in trained)
    assert {name.split(".")[5] for name in trained} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }


def test_the_tower_is_adapted_only_when_asked(folder: Path):
    names = {n for n, p in load(folder, tower=True).named_parameters() if p.requires_grad}
    assert any("visual.blocks" in name for name in names)
    assert any("merger" in name for name in names)
    assert any("language_model" in name for name in names)
    assert not any("lm_head" in name for name in names)


def test_the_merger_is_adapted_alone_where_the_tower_is_frozen(folder: Path):
    vlm = reopen(folder)
    adapt(vlm, LoraConfig(rank=4), [Part.VISION_TOWER, Part.LANGUAGE_MODEL])
    names = {n for n, p in vlm.named_parameters() if p.requires_grad}
    assert names
    assert all("merger" in name for name in names)


def test_a_list_of_targets_adapts_those_alone(qwen: Path):
    vlm = load(qwen, target_modules=["q_proj", "layers.0.mlp.up_proj"])
    names = {n.split(".lora_")[0] for n, p in vlm.named_parameters() if p.requires_grad}
    layers = [f"model.language_model.layers.{i}.self_attn.q_proj" for i in range(4)]
    assert names == {*layers, "model.language_model.layers.0.mlp.up_proj"}


@pytest.mark.parametrize("name", ["q_prj", "lm_head", "embed_tokens", "qkv"])
def test_a_target_that_matches_no_layer_is_refused_without_loading_weights(qwen: Path, name: str):
    config = LoraConfig(target_modules=["q_proj", name])
    (qwen / "model.safetensors").rename(qwen / "away")
    try:
        with pytest.raises(ConfigError, match=f"'{name}' matches no linear layer.*q_proj"):
            check_targets(qwen, config, FROZEN)
        check_targets(qwen, LoraConfig(target_modules=["q_proj"]), FROZEN)
    finally:
        (qwen / "away").rename(qwen / "model.safetensors")


def test_two_policies_start_with_the_same_adapter_and_leave_the_random_state(qwen: Path):
    torch.manual_seed(5)
    one = load(qwen).state_dict()
    state = torch.get_rng_state()
    other = load(qwen).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(bool(t.abs().sum() > 0) for n, t in one.items() if ".lora_A." in n)


def test_the_base_leaves_the_learner_as_it_came(folder: Path):
    came = {p.name: p.make() for p in weight_parts(reopen(folder), "base")}
    left = {p.name: p.make() for p in weight_parts(disturb(load(folder)), "base")}
    assert left.keys() == came.keys()
    assert all(torch.equal(left[name], came[name]) for name in came)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"target_modules": ["v_proj"]}])
def test_a_merged_model_computes_what_model_and_adapter_do(qwen: Path, settings: dict[str, Any]):
    vlm, plain = disturb(load(qwen, **settings)), reopen(qwen)
    merged = {part.name: part.make() for part in weight_parts(vlm, "merged")}
    assert merged.keys() == {name for name, _ in plain.named_parameters()}
    plain.load_state_dict(merged, strict=False)
    assert (logits(plain) - logits(vlm)).abs().max() < 1e-5
    assert (logits(plain) - logits(reopen(qwen))).abs().max() > 1e-2


@pytest.mark.parametrize(("tower", "settings"), [(False, {}), (True, {"use_rslora": True})])
def test_peft_opens_the_adapter(
    folder: Path, tmp_path: Path, tower: bool, settings: dict[str, Any]
):
    from peft import PeftModel

    config = LoraConfig(rank=4, alpha=8, **settings)
    vlm = disturb(load(folder, tower, **settings))
    tensors = {part.name: part.make() for part in weight_parts(vlm, "adapter")}
    AdapterFiles.of(adapter_config(vlm, config, folder), tensors).write(tmp_path / "adapter")
    opened = PeftModel.from_pretrained(reopen(folder), tmp_path / "adapter")
    assert torch.equal(logits(opened), logits(vlm))
    told = json.loads((tmp_path / "adapter" / CONFIG_NAME).read_text())
    assert told["base_model_name_or_path"] == str(folder)
    assert told["r"] == 4
    own = {n for n, p in vlm.named_parameters() if p.requires_grad}
    assert {n.removeprefix("base_model.model.") for n, _ in opened.named_parameters()} >= own


def test_an_adapter_is_checked_before_it_is_used(tmp_path: Path):
    files = AdapterFiles.of("{}", {"a": torch.ones(3)})
    files.check()
    files.write(tmp_path / "adapter")
    save_file({"a": torch.ones(3)}, tmp_path / "same", metadata={"format": "pt"})
    assert (tmp_path / "adapter" / WEIGHTS_NAME).read_bytes() == (tmp_path / "same").read_bytes()
    damaged = bytearray(files.weights)
    damaged[-1] ^= 1
    broken = AdapterFiles(config=b"{}", weights=bytes(damaged), checksum=files.checksum)
    with pytest.raises(WeightUpdateError, match="arrived damaged"):
        broken.check()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"lora": {"rank": 1024}}, "set handoff = 'merged'"),
        ({"lora": {}, "freeze_vision_tower": False}, r"set lora\.handoff = 'merged'"),
        ({"lora": {}, "freeze_merger": False}, r"set lora\.handoff = 'merged'"),
        ({"lora": {"target_modules": []}}, "names no layer"),
        ({"lora": {"rank": 0}}, "rank"),
    ],
)
def test_settings_that_cannot_work_say_what_to_do(values: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        validate(LearnerConfig, values, "recipe")


def test_every_family_is_tried():
    assert set(MODEL_TYPES) == set(FAMILIES)
