"""Checkpoint fragments: trained values and optimiser state, written by any number of ranks and read
by any other.

    optimiser -> this rank's fragments -> rank-RRRRR-NNN.safetensors      (every rank its own)
    all ranks' files -> what this rank's fragments cover -> optimiser -> the model's weights

A fragment is a range of a flattened parameter: its float32 value and what the optimiser keeps for
each element, under ``NAME|FIRST ELEMENT|KIND``. Neither the number of ranks nor the ZeRO stage is
in the format, so both may change between writing and reading; where they do not, every bit comes
back. No file is a pickle. Parameters that are not trained are not written: they come from the
model directory.

The attributes of DeepSpeed's optimisers that say which rank holds what are read here alone.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from wire.errors import ConfigError

_VALUE = "value"
_FILE_BYTES = 2**30  # of tensors; bounds what writing holds in memory


@dataclass(frozen=True, slots=True)
class Fragment:
    """Elements ``start .. start + length - 1`` of a flattened parameter, as the optimiser has
    them: from ``offset`` in ``flat``, the float32 tensor that it updates."""

    name: str
    start: int
    length: int
    flat: Tensor
    offset: int
    shared: bool
    """True if every rank has the same values."""

    def of(self, tensor: Tensor) -> Tensor:
        """View of this range in ``flat``, or in one of the optimiser's tensors beside it."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.length)


class _Piece(NamedTuple):
    """A tensor in a file that holds a range of a parameter."""

    start: int
    file: Any
    key: str
    length: int


def fragments_of(engine: Any) -> Iterator[Fragment]:
    """Fragments of each trained parameter that this rank's DeepSpeed engine updates."""
    optimizer = engine.optimizer
    copies = {id(own): copy for own, copy in _copies(optimizer)}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        if hasattr(parameter, "ds_id"):  # ZeRO 3
            group, offset, part = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = dist.get_rank() * part
            length = min(part, parameter.ds_numel - start)  # the last parts are padded
            flat = optimizer.fp32_partitioned_groups_flat[group]
            if length > 0:
                yield Fragment(name, start, length, flat, offset, shared=False)
        elif hasattr(parameter, "_hp_mapping"):  # ZeRO 1 and 2
            if (held := parameter._hp_mapping) is None:
                continue  # by other ranks
            from_, to = held.lp_fragment_address, held.hp_fragment_address
            flat = _flat_groups(optimizer)[held.param_group_index]
            yield Fragment(name, from_.start, from_.numel, flat, to.start, shared=False)
        else:
            flat = copies.get(id(parameter), parameter)
            yield Fragment(name, 0, parameter.numel(), flat, 0, shared=True)


def _copies(optimizer: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Fragments in bfloat16 without ZeRO: each parameter, and the float32 copy that is updated."""
    if hasattr(optimizer, "fp32_groups"):
        for own, copies in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            yield from zip(own, copies, strict=True)


def _flat_groups(optimizer: Any) -> list[Tensor]:
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        return optimizer.single_partition_of_fp32_groups  # type: ignore[no-any-return]
    return optimizer.fp32_groups_flat_partition  # type: ignore[no-any-return]


def write(engine: Any, folder: Path) -> None:
    """Write this rank's fragments. All ranks call."""
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    folder.mkdir(parents=True, exist_ok=True)
    held: dict[str, Tensor] = {}
    num_bytes = num_files = 0
    for number, fragment in enumerate(fragments_of(engine)):
        if fragment.shared and number % num_ranks != rank:
            continue
        for kind, tensor in _kinds(fragment, engine.basic_optimizer.state):
            held[f"{fragment.name}|{fragment.start}|{kind}"] = tensor
            num_bytes += tensor.nbytes
        if num_bytes >= _FILE_BYTES:
            _write_file(folder, rank, num_files, held)
            held, num_bytes, num_files = {}, 0, num_files + 1
    _write_file(folder, rank, num_files, held)


def _kinds(fragment: Fragment, state: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a fragment by kind: value, per-element state, numbers that the optimiser keeps
    (its count of steps)."""
    yield _VALUE, fragment.of(fragment.flat)
    for kind, value in state.get(fragment.flat, {}).items():
        if torch.is_tensor(value) and value.shape == fragment.flat.shape:
            yield kind, fragment.of(value)
        elif value is not None:
            yield kind, torch.tensor(float(value), dtype=torch.float64)


def _write_file(folder: Path, rank: int, number: int, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    here = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
    save_file(here, folder / f"rank-{rank:05d}-{number:03d}.safetensors")


@torch.no_grad()
def read(engine: Any, folder: Path) -> None:
    """Read the fragments that :func:`write` left, by any ranks under any ZeRO stage. All ranks
    call.

    Raises ConfigError, before it changes anything, if other parameters were trained.
    """
    pieces = _pieces_of(engine.module, folder)
    optimizer = engine.optimizer
    if hasattr(optimizer, "checkpoint_event_prologue"):
        optimizer.checkpoint_event_prologue()  # ZeRO 3: lets go of what it has gathered
    for fragment in fragments_of(engine):
        _fill(fragment, pieces[fragment.name], engine.basic_optimizer)
    _update_weights(optimizer)


@torch.no_grad()
def read_weights(module: torch.nn.Module, folder: Path, dtype: torch.dtype) -> None:
    """Set the trained parameters of a whole module, which no engine has sharded, from the float32
    values that :func:`write` left, rounded to ``dtype`` as engines round them. For one process.

    Raises ConfigError, before it changes anything, if other parameters were trained.
    """
    pieces = _pieces_of(module, folder)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            value = torch.empty(parameter.numel(), dtype=torch.float32)
            _copy(value, 0, pieces[name][_VALUE])
            parameter.data = value.view_as(parameter).to(dtype)


def _pieces_of(module: torch.nn.Module, folder: Path) -> dict[str, dict[str, list[_Piece]]]:
    """Pieces of a module's trained parameters. Raises ConfigError for those of others."""
    pieces = _index(folder)
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    if other := sorted(trained ^ pieces.keys()):
        raise ConfigError(
            f"the checkpoint in {folder} has other trained parameters, {other[0]} among "
            f"{len(other)}; use the learner settings that wrote it"
        )
    return pieces


def _index(folder: Path) -> dict[str, dict[str, list[_Piece]]]:
    """Pieces in the files by parameter and kind, in the order of the elements."""
    from safetensors import safe_open

    pieces: dict[str, dict[str, list[_Piece]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("rank-*.safetensors")):
        file: Any = safe_open(path, framework="pt")
        for key in file.keys():  # noqa: SIM118  (it is no dict)
            name, start, kind = key.rsplit("|", 2)
            shape = file.get_slice(key).get_shape()
            piece = _Piece(int(start), file, key, shape[0] if shape else 0)
            pieces[name][kind].append(piece)
    for kinds in pieces.values():
        for several in kinds.values():
            several.sort(key=lambda piece: piece.start)
    return pieces


def _fill(fragment: Fragment, kinds: dict[str, list[_Piece]], optimizer: Any) -> None:
    for kind, pieces in kinds.items():
        if kind == _VALUE:
            _copy(fragment.of(fragment.flat), fragment.start, pieces)
            continue
        state = optimizer.state[fragment.flat]
        if pieces[0].length == 0:
            count = max(float(piece.file.get_tensor(piece.key)) for piece in pieces)
            state[kind] = _number(count, fragment.flat, optimizer)
            continue
        if not torch.is_tensor(state.get(kind)):
            state[kind] = torch.zeros_like(fragment.flat, requires_grad=False)
        _copy(fragment.of(state[kind]), fragment.start, pieces)


def _copy(target: Tensor, start: int, pieces: list[_Piece]) -> None:
    """Fill ``target``, whose first element is ``start``, from the pieces that overlap it."""
    end, filled = start + len(target), 0
    for piece in pieces:
        first, last = max(start, piece.start), min(end, piece.start + piece.length)
        if first < last:
            part = piece.file.get_slice(piece.key)[first - piece.start : last - piece.start]
            target[first - start : last - start].copy_(part)
            filled += last - first
    assert filled == len(target), f"{pieces[0].key} and its like cover {filled} of {len(target)}"


def _number(value: float, flat: Tensor, optimizer: Any) -> Tensor | int:
    """A count as this optimiser keeps it: DeepSpeed's own as a number, torch's as a tensor, the
    fused ones beside what they update."""
    if not type(optimizer).__module__.startswith("torch."):
        return int(value)
    beside = optimizer.param_groups[0].get("fused", False)
    return torch.tensor(value, dtype=torch.float32, device=flat.device if beside else "cpu")


def _update_weights(optimizer: Any) -> None:
    """Set the weights of the forward pass from the float32 ones."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # ZeRO 3
        own = zip(
            optimizer.fp16_partitioned_groups_flat,
            optimizer.fp32_partitioned_groups_flat,
            strict=True,
        )
        for group, (weights, values) in enumerate(own):
            weights.data.copy_(values.data)
            optimizer._unflatten_partitioned_parameters(group)
        optimizer.checkpoint_event_epilogue()
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()
    for weight, copy in _copies(optimizer):
        weight.copy_(copy)
