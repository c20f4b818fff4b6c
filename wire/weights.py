"""The form in which weights travel to an engine without NCCL: checked buckets of bytes.

    (name, tensor), ... -> Bucket, Bucket, ... -> (name, tensor), ...

Both ends are here. A bucket has a number, so that a receiver who is told how many there are knows a
whole update from a broken one; its checksum covers the bytes and the table of names.
"""

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wire.errors import WeightUpdateError

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a tensor lies in its bucket."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Some whole tensors, one after another."""

    index: int
    entries: tuple[Entry, ...]
    data: Bytes
    checksum: int

    def header(self) -> dict[str, Any]:
        """All but the bytes, as plain values."""
        return {
            "index": self.index,
            "entries": [asdict(entry) for entry in self.entries],
            "checksum": self.checksum,
        }


def pack(tensors: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int) -> Iterator[Bucket]:
    """Fill buckets of about ``bucket_bytes``; a larger tensor gets a bucket of its own.

    Raises WeightUpdateError on an empty tensor: a ZeRO-3 shard that was never gathered.
    """
    index, held, size = 0, list[tuple[str, torch.Tensor]](), 0
    for name, tensor in tensors:
        if tensor.numel() == 0:
            raise WeightUpdateError(f"{name} is empty: it was not gathered before sending")
        num_bytes = tensor.numel() * tensor.element_size()
        if held and size + num_bytes > bucket_bytes:
            yield _bucket(index, held)
            index, held, size = index + 1, [], 0
        held.append((name, tensor))
        size += num_bytes
    if held:
        yield _bucket(index, held)


def num_buckets(sizes: Iterable[int], bucket_bytes: int) -> int:
    """How many buckets ``pack`` makes of tensors of these sizes (bytes), in order."""
    count, held = 0, 0
    for size in sizes:
        if count == 0 or held + size > bucket_bytes:
            count, held = count + 1, 0
        held += size
    return count


def unpack(header: dict[str, Any], data: Bytes) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a bucket, as views of ``data``.

    Raises WeightUpdateError, before the first tensor, if bytes or table are not those sent.
    """
    entries = [Entry(**{**entry, "shape": tuple(entry["shape"])}) for entry in header["entries"]]
    found = _checksum(entries, data)
    if found != header["checksum"]:
        raise WeightUpdateError(
            f"weight bucket {header['index']} arrived damaged: checksum {found:08x}, "
            f"sent with {header['checksum']:08x}"
        )
    for entry in entries:
        part = data[entry.offset : entry.offset + entry.num_bytes]
        dtype = getattr(torch, entry.dtype)
        yield entry.name, torch.from_numpy(part).view(dtype).reshape(entry.shape)


def _bucket(index: int, tensors: list[tuple[str, torch.Tensor]]) -> Bucket:
    entries, offset = list[Entry](), 0
    for name, tensor in tensors:
        num_bytes = tensor.numel() * tensor.element_size()
        entries.append(
            Entry(
                name=name,
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(tensor.shape),
                offset=offset,
                num_bytes=num_bytes,
            )
        )
        offset += -(-num_bytes // 16) * 16  # aligned, so that every dtype can view its part
    data = np.zeros(offset, dtype=np.uint8)
    for entry, (_, tensor) in zip(entries, tensors, strict=True):
        flat = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
        data[entry.offset : entry.offset + entry.num_bytes] = flat
    return Bucket(index=index, entries=tuple(entries), data=data, checksum=_checksum(entries, data))


def _checksum(entries: list[Entry], data: Bytes) -> int:
    table = json.dumps([asdict(entry) for entry in entries], sort_keys=True).encode()
    return zlib.crc32(data.data, zlib.crc32(table))
