"""LoRA through peft (arXiv 2106.09685): additions of low rank to linear layers, all else frozen.

    adapt(vlm) -> the same model, each target layer holding base_layer, lora_A and lora_B
    weight_parts(vlm, "adapter" | "base" | "merged") -> what leaves the learner, by its name outside

A layer computes ``W x + s B A x`` with ``s = alpha / rank`` (eq. 3); B starts at 0, so a new
adapter changes nothing. peft's layers are put into the model (``inject_adapter_in_model``) rather
than around it: the model's own attributes stay where they are.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from learner.config import LoraConfig
from learner.model.token_head import TokenScores
from learner.model.trained_parts import Part, part_of
from learner.shared_prefix.batch import TrainBatch
from video.families import family_of
from wire.errors import ConfigError

WeightKind = Literal["adapter", "base", "merged"]
"""The additions alone, by peft's names; the model without them; the model with them added in."""

_ADAPTER = "default"  # peft's name for the only adapter of a model
_PEFT_PREFIX = "base_model.model."
_HEAD = "lm_head"
_SEED = 0  # of lora_A: the same on every rank, in every attempt


class WeightPart(NamedTuple):
    """One tensor that is exported or sent to the engines."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    """Parameters that the tensor is made of; under ZeRO-3 they must be gathered while ``make``
    runs."""
    make: Callable[[], Tensor]
    """Makes the tensor; where it is a parameter itself, it shares the parameter's memory."""


def adapt(vlm: Any, config: LoraConfig, frozen: Collection[Part]) -> None:
    """Put a new adapter into the parts that are not frozen; from then on it alone trains.

    Raises ConfigError if a target matches no layer.
    """
    from peft import inject_adapter_in_model

    targets = _pattern(vlm, _targets(vlm, config, frozen))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        inject_adapter_in_model(_peft_config(config, targets), vlm, _ADAPTER)


def check_targets(model_dir: Path, config: LoraConfig, frozen: Collection[Part]) -> None:
    """Raise ConfigError if a target matches no layer of the model; loads no weights."""
    import transformers

    shape = transformers.AutoConfig.from_pretrained(model_dir, local_files_only=True)
    with torch.device("meta"):
        vlm = getattr(transformers, family_of(model_dir).model_class)(shape)
    _targets(vlm, config, frozen)


@contextmanager
def adapter_off(vlm: nn.Module) -> Iterator[None]:
    """Within the block the model computes what it did before ``adapt``, bit for bit.

    Not by peft's ``disable_adapter``, which also switches ``requires_grad`` of the adapter: the
    optimiser's hooks on these parameters are DeepSpeed's.
    """
    layers = [layer for _, layer in _layers(vlm)]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


class AdapterOff:
    """The reference of a KL term: the policy itself with its adapter off. Takes no memory."""

    def __init__(self, vlm: nn.Module, score: Callable[[TrainBatch], TokenScores]) -> None:
        self._vlm, self._score = vlm, score

    def logprobs(self, batch: TrainBatch) -> Float[Tensor, " N"]:
        """Logprobs of every response token, without gradient. All ranks call together."""
        with adapter_off(self._vlm):
            return self._score(batch).logp


def weight_parts(vlm: nn.Module, kind: WeightKind) -> list[WeightPart]:
    """All tensors of one kind, tied parameters once. Without an adapter, base and merged are the
    model's own parameters."""
    layers = dict(_layers(vlm))
    parts = []
    for name, parameter in vlm.named_parameters():
        if (".lora_A." in name or ".lora_B." in name) != (kind == "adapter"):
            continue
        outside = name.replace(".base_layer.", ".")
        if kind == "adapter":
            outside = _PEFT_PREFIX + name.replace(f".{_ADAPTER}.", ".")
        layer = layers.get(name.removesuffix(".base_layer.weight"))
        if kind == "merged" and layer is not None:
            parts.append(_merged(outside, parameter, layer))
        else:
            parts.append(WeightPart(outside, (parameter,), parameter.detach))
    return parts


def adapter_config(vlm: nn.Module, config: LoraConfig, base: Path) -> str:
    """peft's ``adapter_config.json`` of the model's adapter; ``base``: the model that it adds to.

    JSON with sorted keys: the same adapter gives the same text.
    """
    import json

    targets = _pattern(vlm, [name for name, _ in _layers(vlm)])
    values = _peft_config(config, targets).to_dict()
    values |= {"base_model_name_or_path": str(base), "inference_mode": True}
    return json.dumps(values, indent=2, sort_keys=True, default=_plain)


def _merged(name: str, weight: nn.Parameter, layer: Any) -> WeightPart:
    low, high = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight

    def make() -> Tensor:
        """In float32, rounded once."""
        added: Tensor = (high.detach().float() @ low.detach().float()) * layer.scaling[_ADAPTER]
        return (weight.detach().float() + added).to(weight.dtype)

    return WeightPart(name, (weight, low, high), make)


def _layers(vlm: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    for name, module in vlm.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _peft_config(config: LoraConfig, targets: str) -> Any:
    from peft import LoraConfig as PeftConfig

    return PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.use_rslora,
        target_modules=targets,
    )


def _targets(vlm: nn.Module, config: LoraConfig, frozen: Collection[Part]) -> list[str]:
    """Names of the linear layers that get an addition. The output head never does: it is often the
    embedding, too. Raises ConfigError."""
    linear = [
        name
        for name, module in vlm.named_modules()
        if isinstance(module, nn.Linear) and name != _HEAD and part_of(name) not in frozen
    ]
    if config.target_modules == "all-linear":
        return linear
    wanted = config.target_modules
    matches = {want: [n for n in linear if f".{n}".endswith(f".{want}")] for want in wanted}
    if absent := [want for want, names in matches.items() if not names]:
        known = sorted({name.rpartition(".")[2] for name in linear} - {"0", "2"})
        where = ", ".join(part.replace("_", " ") for part in Part if part not in frozen)
        raise ConfigError(
            f"learner.lora.target_modules: {', '.join(map(repr, absent))} matches no linear layer "
            f"of the {where}; expected 'all-linear' or some of {', '.join(known)}"
        )
    return [name for name in linear if any(name in names for names in matches.values())]


def _pattern(vlm: nn.Module, names: Sequence[str]) -> str:
    """A regular expression that matches these modules and no other: short where every layer of a
    stack has the same targets."""
    short = "|".join(sorted({_any_number(name) for name in names}))
    matched = {name for name, _ in vlm.named_modules() if re.fullmatch(short, name)}
    return short if matched == set(names) else "|".join(map(re.escape, names))


def _any_number(name: str) -> str:
    """``layers.3.mlp`` as ``layers\\.\\d+\\.mlp``; a number at the end is a name."""
    *parts, last = name.split(".")
    return r"\.".join([*(r"\d+" if part.isdigit() else part for part in parts), last])


def _plain(value: Any) -> Any:
    """JSON form of peft's enumerations and sets."""
    return sorted(value) if isinstance(value, set) else getattr(value, "value", str(value))
