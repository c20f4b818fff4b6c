"""Wire format of weights sent to an engine without NCCL: buckets of bytes that are recognised.

    names, shapes -> plan -> Layout, Layout, ...             both sides know the number of buckets
    (name, tensor), ... + memory -> fill -> Bucket           one copy, into memory that engines map
    header, bytes -> unpack -> (name, tensor), ...           views

Tensors that lie in that memory already are not copied.

Both ends are here. A bucket has a number, so that a receiver who is told how many there are knows a
whole update from a broken one. Its fingerprint, of the table of names and a line of every page,
tells other memory than the sender's, and the next bucket in it, from the one that was sent; no
memory is read whole for it. Bytes that go over a network have a digest of all of them.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import xxhash

from wire.errors import WeightUpdateError
from wire.shared_memory import Bytes

T = TypeVar("T")

# bytes, torch's own: what computes on the views is as fast, and the same bit for bit
_ALIGNMENT = 64
_PAGE, _LINE = 4096, 64  # bytes


class Entry(NamedTuple):
    """Place of a tensor in its bucket."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    def of(self, data: Bytes) -> torch.Tensor:
        """View of the tensor's place in the bucket's bytes."""
        part = torch.from_numpy(data[self.offset : self.offset + self.num_bytes])
        return part.view(getattr(torch, self.dtype)).reshape(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Layout of a bucket: whole tensors, one after another."""

    index: int
    entries: tuple[Entry, ...]

    @property
    def num_bytes(self) -> int:
        """Size with the gaps between tensors."""
        last = self.entries[-1]
        return _aligned(last.offset + last.num_bytes)

    def views(self, data: Bytes) -> dict[str, torch.Tensor]:
        """Views of the tensors' places in the bytes."""
        return {entry.name: entry.of(data) for entry in self.entries}

    def lies_in(self, data: Bytes, tensors: Iterable[tuple[str, torch.Tensor]]) -> bool:
        """Whether these tensors are at their places in the bytes already."""
        views = self.views(data) if len(data) >= self.num_bytes else {}
        return {n: v.data_ptr() for n, v in views.items()} == {n: t.data_ptr() for n, t in tensors}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A layout with its bytes."""

    layout: Layout
    data: Bytes
    fingerprint: int

    def header(self) -> dict[str, Any]:
        """Everything but the bytes, as plain values."""
        return {
            "index": self.layout.index,
            "entries": [tuple(entry) for entry in self.layout.entries],
            "num_bytes": len(self.data),
            "fingerprint": self.fingerprint,
        }


def split_by_size(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Consecutive parts of at most ``limit``; a larger item gets a part of its own."""
    held, total = list[T](), 0
    for item in items:
        if held and total + size(item) > limit:
            yield held
            held, total = [], 0
        held.append(item)
        total += size(item)
    if held:
        yield held


def plan(
    tensors: Iterable[tuple[str, torch.dtype, tuple[int, ...]]], bucket_bytes: int
) -> list[Layout]:
    """Buckets of about ``bucket_bytes`` for tensors of these names, precisions and shapes.

    Raises WeightUpdateError on an empty tensor: a ZeRO-3 shard, described as if it were whole.
    """
    sized = [(*tensor, math.prod(tensor[2]) * tensor[1].itemsize) for tensor in tensors]
    for name, _, _, num_bytes in sized:
        _refuse_empty(name, num_bytes)
    parts = split_by_size(sized, lambda tensor: tensor[3], bucket_bytes)
    return [_layout(index, part) for index, part in enumerate(parts)]


def fill(layout: Layout, tensors: Iterable[tuple[str, torch.Tensor]], data: Bytes) -> Bucket:
    """Copy the tensors of a layout into ``data``, which may be larger; one that is at its place
    there stays as it is.

    Raises WeightUpdateError if they are not those that the layout describes; an empty one is a
    ZeRO-3 shard that was never gathered.
    """
    data = data[: layout.num_bytes]
    given = dict(tensors)
    names = [entry.name for entry in layout.entries]
    if list(given) != names:
        raise WeightUpdateError(f"bucket {layout.index} holds {names}, given were {list(given)}")
    for entry in layout.entries:
        tensor = given[entry.name]
        _refuse_empty(entry.name, tensor.numel())
        if tuple(tensor.shape) != entry.shape:
            raise WeightUpdateError(
                f"{entry.name} has the shape {tuple(tensor.shape)}, described as {entry.shape}"
            )
        _copy(tensor.detach(), entry.of(data))
    return Bucket(layout=layout, data=data, fingerprint=_fingerprint(layout.entries, data))


def unpack(header: dict[str, Any], data: Bytes) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a bucket, as views of ``data``, which may be larger.

    Raises WeightUpdateError, before the first tensor, if bytes or table are not those sent.
    """
    entries = [Entry(*entry)._replace(shape=tuple(entry[2])) for entry in header["entries"]]
    fingerprint = _fingerprint(entries, data[: header["num_bytes"]])
    if fingerprint != header["fingerprint"]:
        raise WeightUpdateError(
            f"weight bucket {header['index']} is not the one that was sent: its fingerprint is "
            f"{fingerprint:016x}, sent was {header['fingerprint']:016x}"
        )
    for entry in entries:
        yield entry.name, entry.of(data)


def digest(data: Bytes) -> int:
    """XXH3, 64 bits, of all bytes: twice as fast as copying them."""
    return xxhash.xxh3_64_intdigest(data.data)


def _layout(index: int, tensors: list[tuple[str, torch.dtype, tuple[int, ...], int]]) -> Layout:
    entries, offset = list[Entry](), 0
    for name, dtype, shape, num_bytes in tensors:
        entry = Entry(
            name=name,
            dtype=str(dtype).removeprefix("torch."),
            shape=tuple(shape),
            offset=offset,
            num_bytes=num_bytes,
        )
        entries.append(entry)
        offset = _aligned(offset + num_bytes)
    return Layout(index=index, entries=tuple(entries))


def _copy(tensor: torch.Tensor, place: torch.Tensor) -> None:
    if tensor.data_ptr() == place.data_ptr():
        return
    if tensor.is_cpu and tensor.is_contiguous() and tensor.dtype == place.dtype:
        # by one thread: torch's would be no faster, and wait for each other on a busy machine
        given, to = (t.reshape(-1).view(torch.uint8).numpy() for t in (tensor, place))
        to[:] = given
    else:
        place.copy_(tensor)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _refuse_empty(name: str, size: int) -> None:
    if size == 0:
        raise WeightUpdateError(f"{name} is empty: it was not gathered before sending")


def _fingerprint(entries: Iterable[Entry], data: Bytes) -> int:
    """XXH3, 64 bits, of the table, of the first line of every page, and of what is left after the
    last one: a few milliseconds for a gigabyte, where a digest takes as long as half a copy."""
    table = repr([tuple(entry) for entry in entries]).encode()
    whole = len(data) - len(data) % _PAGE
    state = xxhash.xxh3_64(table)
    # not tobytes(), which goes byte by byte and takes ten times as long
    state.update(np.ascontiguousarray(data[:whole].reshape(-1, _PAGE)[:, :_LINE]).data)
    state.update(data[whole:].data)
    return state.intdigest()
