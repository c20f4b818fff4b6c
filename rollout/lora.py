"""LoRA adapters in vLLM: the engine's arguments, requests, and loading.

AdapterSlots -> vLLM's arguments;  Adapter -> LoRARequest, of a request or to be loaded
"""

from dataclasses import dataclass
from typing import Any, get_args

from wire.errors import WeightUpdateError
from wire.types import PolicyVersion

_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""Layers of a language model. Not its output head, though no adapter of ours has one: vLLM would
compute with an addition there, and ends where one request asks for logprobs of its prompt, as the
parity probe does, while others are being answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter as an engine knows it."""

    number: int
    """Number in this engine, from 1 and never used twice: vLLM finds cached prefixes by the
    name."""
    version: PolicyVersion
    path: str
    """A folder in peft's format, which vLLM may read again while the adapter is loaded."""

    @property
    def name(self) -> str:
        """Name in vLLM's log."""
        return f"policy-{self.version}-{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSlots:
    """Slots for adapters in an engine."""

    rank: int
    """Rank of the largest adapter."""
    count: int
    """Adapters that are computed with at the same time; requests of any others wait."""


def engine_arguments(slots: AdapterSlots | None) -> dict[str, Any]:
    """vLLM's arguments for adapters; empty without. vLLM knows only some ranks: the next larger
    one."""
    if slots is None:
        return {}
    from vllm.config.lora import MaxLoRARanks

    rank = min(size for size in get_args(MaxLoRARanks) if size >= slots.rank)
    return {
        "enable_lora": True,
        "max_lora_rank": rank,
        "max_loras": slots.count,
        "lora_target_modules": _LAYERS,
    }


def lora_request(adapter: Adapter) -> Any:
    """The adapter as a vLLM LoRARequest."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(adapter.name, adapter.number, adapter.path)


async def add_whole(llm: Any, adapter: Adapter) -> None:
    """Load an adapter, all of it. Raises WeightUpdateError if vLLM would leave a part out (it says
    so in its log alone), and what vLLM raises; then the adapter is gone again."""
    try:
        await llm.add_lora(lora_request(adapter))
        workers = await llm.collective_rpc("left_out", args=(adapter.number,))
        if names := [name for left_out in workers for name in left_out]:
            raise WeightUpdateError(f"vLLM has no place for {', '.join(names[:3])}")
    except Exception:  # not a deadline: who does not answer would not answer this either
        await llm.remove_lora(adapter.number)
        raise
