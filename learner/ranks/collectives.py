"""Collective calls over the learner's ranks: reduce numbers, gather values, require equality."""

import math
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from wire.errors import ParityError

T = TypeVar("T")


def reduce(values: dict[str, float], op: Any) -> dict[str, float]:
    """Combine numbers over ranks. Every rank passes the same names. The largest of some with NaN is
    infinity: backends differ in what they make of NaN."""
    if dist.get_world_size() == 1 or not values:
        return values
    names = sorted(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    if op == dist.ReduceOp.MAX:
        tensor.nan_to_num_(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    dist.all_reduce(tensor, op=op)
    return dict(zip(names, tensor.tolist(), strict=True))


def max_over_ranks(number: int) -> int:
    """The largest of all ranks' numbers."""
    return int(reduce({"n": float(number)}, dist.ReduceOp.MAX)["n"])


def gather(value: T) -> list[T]:
    """The values of all ranks, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def require_same_on_all_ranks(tower: str) -> None:
    """Raise ParityError on all ranks unless they hold the same vision tower (by its hash)."""
    hashes = gather(tower)
    if len(set(hashes)) > 1:
        raise ParityError(
            f"the learner's ranks hold different vision towers (hashes {', '.join(hashes)}); "
            "give all nodes the same model directory"
        )
