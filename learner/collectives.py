"""Numbers and small values that the learner's ranks agree on. All ranks call together."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist

from wire.errors import ParityError

T = TypeVar("T")


def reduce(values: dict[str, float], op: Any) -> dict[str, float]:
    """Combine numbers over ranks. Every rank passes the same names."""
    if dist.get_world_size() == 1 or not values:
        return values
    names = sorted(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=op)
    return dict(zip(names, tensor.tolist(), strict=True))


def most(number: int) -> int:
    """The largest of all ranks' numbers."""
    return int(reduce({"n": float(number)}, dist.ReduceOp.MAX)["n"])


def gather(value: T) -> list[T]:
    """Every rank's value, on every rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def same_on_all_ranks(tower: str) -> None:
    """Raises ParityError on all ranks unless they hold the same tower."""
    found = gather(tower)
    if len(set(found)) > 1:
        raise ParityError(
            f"the learner's ranks hold different vision towers (hashes {', '.join(found)}); "
            "give all nodes the same model directory"
        )
