"""File of a cache entry: safetensors with a digest, so that a cut or changed one is never used.

    description, tensors -> pack -> header + bytes -> unpack -> the same, or Damaged

Any safetensors reader can open it. The digest is xxh3: it finds what a crash or a disk leaves, at
the speed of memory; nobody is kept out by it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from video.disk_cache.file_system import Content

Described = Mapping[str, Any]
"""What an entry says beside its tensors: as JSON, floats as hexadecimal text."""


class Damaged(Exception):
    """The file is not a whole entry of its name; the caller makes it anew."""


class Outdated(Exception):
    """The file is of a version of us that kept less in it; it is made anew without a word."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes of a tensor in an entry's file."""

    dtype: str
    """Its name in safetensors: U8, BF16, F32, ..."""
    shape: tuple[int, ...]
    data: Any
    """The bytes, one after another: a memoryview, or of a file that was read an array."""


def pack(key: str, described: Described, tensors: Mapping[str, Stored]) -> list[bytes | memoryview]:
    """The parts of an entry's file, in order."""
    table: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + len(tensor.data)
        table[name] = _row(tensor.dtype, tensor.shape, begin, end)
    entry = {"key": key, **described}
    parts = [tensor.data for tensor in tensors.values()]
    metadata = {"entry": json.dumps(entry), "digest": _digest(entry, table, parts)}
    header = json.dumps({"__metadata__": metadata, **table}).encode()
    header += b" " * (-len(header) % 8)  # aligns the tensors, as the format asks
    return [len(header).to_bytes(8, "little"), header, *parts]


def unpack(key: str, content: Content) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The description and the tensors of an entry's file. Raises Damaged or Outdated."""
    try:
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        if not 8 < start <= len(content):
            raise Damaged("its header is cut")
        header = json.loads(content[8:start].tobytes())
        metadata = header.pop("__metadata__")
        if "digest" not in metadata and ("clip" in metadata or "entry" in metadata):
            raise Outdated
        entry = json.loads(metadata["entry"])
        digest = metadata["digest"]
        tensors = {}
        for name, row in header.items():
            begin, end = row["data_offsets"]
            tensors[name] = Stored(
                row["dtype"], tuple(row["shape"]), content[start + begin : start + end]
            )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Damaged(str(error)) from error
    parts = [tensor.data for tensor in tensors.values()]
    if _digest(entry, header, parts) != digest:
        raise Damaged("its content does not have its digest")
    if entry.pop("key") != key:
        raise Damaged("it holds another entry")
    return entry, tensors


def _row(dtype: str, shape: tuple[int, ...], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def _digest(entry: Described, table: Mapping[str, Any], parts: list[Any]) -> str:
    state = xxhash.xxh3_128(json.dumps([entry, table], sort_keys=True).encode())
    for part in parts:
        state.update(part)
    return state.hexdigest()
