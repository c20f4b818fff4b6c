"""Exports of the learner's weights: as a Hugging Face directory, or on their way to the engines.

engine, all its ranks          -> gather_weights    -> write_model
checkpoint, saved by any ranks -> export_checkpoint -> write_model   (one process, no engine)
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist

from learner import checkpoint, checkpoint_fragments
from learner.config import LearnerConfig
from learner.engine import LORA_FILE, DeepSpeedEngine
from learner.model.lora import WeightKind, adapt, weight_parts
from learner.model.policy import Policy
from learner.model.trained_parts import freeze, frozen_parts
from wire.disk import naming_full_disk
from wire.errors import ConfigError
from wire.types import stable_hash
from wire.weight_digest import DigestRecorder

ADAPTER_FOLDER = "adapter"
"""Folder beside an exported model: the LoRA adapter, which adds to the stage's starting model."""

_KEPT = (".json", ".jinja", ".txt", ".model")  # configuration, tokenizer, processor


@dataclass(frozen=True, slots=True)
class EngineWeights:
    """Weights of one kind for the engines, as learner/weight_transfer.py sends them."""

    engine: DeepSpeedEngine
    kind: WeightKind

    def weight_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return self.engine.weight_shapes(self.kind)

    def full_parameters(self, bucket_bytes: int) -> Iterator[tuple[str, torch.Tensor]]:
        return self.engine.full_parameters(bucket_bytes, self.kind)

    def can_settle(self, dtype: torch.dtype) -> bool:
        return self.engine.can_settle(dtype)

    def settle(self, places: Mapping[str, torch.Tensor]) -> None:
        self.engine.settle(places)


def gather_weights(engine: DeepSpeedEngine, kind: WeightKind) -> dict[str, torch.Tensor]:
    """Weights of one kind by name. All ranks call; empty on other ranks than 0, which only take
    part in gathering."""
    writes = dist.get_rank() == 0
    weights = {}
    for name, tensor in engine.full_parameters(kind=kind):
        if writes:
            weights[name] = tensor.to("cpu", copy=True).contiguous()
    return weights


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFacts:
    """Size of an adapter and of the model that it adds to, and what proves that the model stays."""

    num_trained: int
    """Numbers of the adapter."""
    num_frozen: int
    """Numbers of the model."""
    base_digest: str
    """Digest of the model's weights as the learner holds them: the same before and after a training
    that changes the adapter alone."""


@runtime_checkable
class HeldWeights(Protocol):
    """Weights that an engine holds, by their kind; DeepSpeedEngine implements it."""

    def weight_shapes(self, kind: WeightKind) -> list[tuple[str, tuple[int, ...]]]:
        """Names and whole shapes."""
        ...

    def full_parameters(self, *, kind: WeightKind) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and whole values; all ranks iterate, in step."""
        ...


def adapter_facts(engine: HeldWeights) -> AdapterFacts:
    """Facts of an engine's adapter. All ranks call; rank 0's digest counts."""
    recorder = DigestRecorder()
    for _ in recorder.of(engine.full_parameters(kind="base")):
        pass
    return AdapterFacts(
        num_trained=_numbers(engine, "adapter"),
        num_frozen=_numbers(engine, "base"),
        base_digest=stable_hash(*sorted(recorder.digests.items()))[:16],
    )


def _numbers(engine: HeldWeights, kind: WeightKind) -> int:
    return sum(math.prod(shape) for _, shape in engine.weight_shapes(kind))


def write_model(
    policy: Policy, tensors: dict[str, torch.Tensor], source: Path, directory: Path
) -> None:
    """A Hugging Face directory with these weights and the tokenizer and processor of ``source``."""
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix in _KEPT and not file.name.endswith(".index.json"):
            shutil.copy2(file, partial)
    with naming_full_disk(partial):
        policy.vlm.save_pretrained(partial, state_dict=tensors)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def export_checkpoint(folder: Path, source: Path, config: LearnerConfig, directory: Path) -> None:
    """Write the weights of a checkpoint as a Hugging Face directory: the tensors that the learner
    which saved it would have exported, whatever its ranks and ZeRO stage. With LoRA the additions
    are added in.

    ``source``: the model that the training began from; ``config``: the settings of the learner.
    Raises CheckpointDamaged, and ConfigError for the settings of another learner.
    """
    checkpoint.refuse_damaged(folder)
    lora = config.lora.shape if config.lora else "none"
    if (saved := json.loads((folder / LORA_FILE).read_text())) != lora:
        raise ConfigError(
            f"cannot export {folder}: learner.lora is {lora}, the checkpoint has {saved}; give the "
            "recipe of the run that wrote it"
        )
    policy = Policy.load(source, config.dtype)
    if config.lora is not None:
        adapt(policy.vlm, config.lora, frozen_parts(config))
    else:
        freeze(policy, frozen_parts(config))
    checkpoint_fragments.read_weights(policy, folder, getattr(torch, config.dtype))
    parts = weight_parts(policy.vlm, "merged")
    write_model(policy, {p.name: p.make().contiguous() for p in parts}, source, directory)
