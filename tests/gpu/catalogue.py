"""Checks that one card can answer, smallest first.

Each is a module of this folder with ``figures(setting, *arguments)``, run in a process of its own.
"""

from dataclasses import dataclass
from typing import Any

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One process: rows that share their imports and their model."""

    name: str
    module: str
    what: str
    seconds: float
    """It is ended after so long."""
    arguments: tuple[Any, ...] = ()
    needs: tuple[str, ...] = ()
    """Modules beside PyTorch and transformers, by their import names."""
    alone: bool = False
    """It measures time: nothing else runs beside it."""


CHECKS = (
    Check(
        name="token_head",
        module="token_head",
        what="the output head by tiles, 152k words: logprobs, gradients, peak memory",
        seconds=120,
    ),
    Check(
        name="embedding_cache",
        module="embeddings",
        what="features read back are those that the tower gave, bit for bit",
        seconds=120,
    ),
    Check(
        name="ipc",
        module="ipc",
        what="a tensor of this process read and written by another, without a copy",
        seconds=120,
    ),
    Check(
        name="weights_ipc",
        module="weights_ipc",
        what="weights from the learner's IPC trainer to another process, by vLLM's handles",
        seconds=120,
        needs=("vllm",),
    ),
    *(
        Check(
            name=f"attention_{family}",
            module="attention",
            arguments=(family,),
            what=f"shared-prefix attention against softmax over a mask, heads of {family}",
            seconds=150,
        )
        for family in FAMILIES
    ),
    *(
        Check(
            name=f"self_check_{family}",
            module="self_check",
            arguments=(family,),
            what=f"the check before a first update passes, and finds planted faults, {family}",
            seconds=120,
        )
        for family in FAMILIES
    ),
    Check(
        name="decoding",
        module="decoding",
        what="clips per second of the decoder helpers, against what a step takes",
        seconds=120,
        needs=("av",),
        alone=True,
    ),
    Check(
        name="zero_float32",
        module="zero",
        arguments=("float32",),
        what="ZeRO 0 to 3 on one rank, with and without offload: the same losses",
        seconds=150,
        needs=("deepspeed",),
    ),
    Check(
        name="zero_bfloat16",
        module="zero",
        arguments=("bfloat16",),
        what="the same in bfloat16",
        seconds=150,
        needs=("deepspeed",),
    ),
    Check(
        name="checkpoint",
        module="checkpoint",
        what="a learner that was saved and loaded trains on with the same losses",
        seconds=150,
        needs=("deepspeed",),
    ),
    Check(
        name="throughput",
        module="throughput",
        what="tokens/s, MFU and memory of a 3B shape: shared prefix or not, checkpointing or not",
        seconds=240,
        alone=True,
    ),
)
