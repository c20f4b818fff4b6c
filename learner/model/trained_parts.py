"""Trained parts of the policy, each with a learning rate of its own: language model, merger,
vision tower.

    parameters -> parts -> frozen, or groups of the optimiser, each with its share of the step's
    learning rate

Weight decay falls on all parameters of a group, norms and biases too, as in torch, verl and the
authors' trainer; with ``decay_norms = false`` on matrices alone, as in transformers' Trainer, TRL
and OpenRLHF.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import nn

from learner.config import LearnerConfig, OptimConfig
from wire.errors import ConfigError

_MERGERS = ("merger", "deepstack_merger_list")


class Part(StrEnum):
    """A part of the policy that can be frozen, or trained at a learning rate of its own."""

    LANGUAGE_MODEL = "language_model"
    MERGER = "merger"
    """Maps the tower's features to the text model's; Qwen3-VL has one more per deepstack layer."""
    VISION_TOWER = "vision_tower"


def part_of(name: str) -> Part:
    """The part of a parameter, by its Hugging Face name, with or without a prefix."""
    _, visual, inner = f".{name}".partition(".visual.")
    if not visual:
        return Part.LANGUAGE_MODEL
    return Part.MERGER if inner.partition(".")[0] in _MERGERS else Part.VISION_TOWER


def frozen_parts(config: LearnerConfig) -> list[Part]:
    """Parts that the recipe freezes."""
    frozen = {
        Part.LANGUAGE_MODEL: config.freeze_language_model,
        Part.MERGER: config.merger_frozen,
        Part.VISION_TOWER: config.freeze_vision_tower,
    }
    return [part for part in Part if frozen[part]]


def freeze(model: nn.Module, parts: Collection[Part]) -> None:
    """Turn off the gradient of these parts."""
    for name, parameter in model.named_parameters():
        if part_of(name) in parts:
            parameter.requires_grad_(False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters that share a learning rate and a weight decay."""

    part: Part
    parameters: list[nn.Parameter]
    weight_decay: float
    scale: float
    """Factor from the step's learning rate, which is the language model's."""

    def for_torch(self) -> dict[str, Any]:
        """The group as a dict of torch's optimisers."""
        return {"params": self.parameters, "weight_decay": self.weight_decay, "part": self.part}


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[Group]:
    """Optimiser groups of the trained parameters, in a fixed order; no group is empty.

    Raises ConfigError if nothing trains: a model may lack the only part that is not frozen.
    """
    groups: dict[tuple[Part, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = optim.decay_norms or parameter.ndim > 1
            groups.setdefault((part_of(name), decays), []).append(parameter)
    if not groups:
        raise ConfigError(
            "no parameter of the model trains; set learner.freeze_language_model, freeze_merger or "
            "freeze_vision_tower to false for a part that the model has"
        )
    peaks = {
        Part.LANGUAGE_MODEL: optim.learning_rate,
        Part.MERGER: optim.merger_learning_rate or optim.learning_rate,
        Part.VISION_TOWER: optim.vision_learning_rate or optim.learning_rate,
    }
    return [
        Group(
            part=part,
            parameters=groups[part, decays],
            weight_decay=optim.weight_decay if decays else 0.0,
            scale=peaks[part] / optim.learning_rate,
        )
        for part in Part
        for decays in (True, False)
        if (part, decays) in groups
    ]
