"""Rows of a supervised training on disk: written once, read when their batch comes.

    prompts, targets -> SpilledRows.append -> file of the run directory -> rows[i] -> train_step

The file has no name: it is gone with the process, however that ends. Token ids are compressed:
video placeholders are most of a prompt.
"""

import json
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, overload

import pyarrow as pa

from learner.shared_prefix.rows import Response, Row
from wire.token_arrays import TokenIds
from wire.types import Prompt

_CODEC = "zstd"


class SpilledRows(Sequence[Row]):
    """Rows in a file, in the order of writing; in memory are their places and the longest row."""

    def __init__(self, folder: Path) -> None:
        """``folder``: on the disk that has room for them."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder, prefix="rows-")  # noqa: SIM115  see close
        self._ends, self._sizes = array("q", [0]), array("q")
        self._longest: Row | None = None

    def append(self, row: Row) -> None:
        """Write a row. Raises OSError."""
        record, size = _record(row)
        self._file.seek(self._ends[-1])
        self._file.write(record)
        self._ends.append(self._ends[-1] + len(record))
        self._sizes.append(size)
        if self._longest is None or row.num_tokens > self._longest.num_tokens:
            self._longest = row

    def extend(self, rows: Iterable[Row]) -> None:
        """Write rows. Raises OSError."""
        for row in rows:
            self.append(row)

    @property
    def longest(self) -> Row:
        """The row of most tokens, the first of equal ones."""
        assert self._longest is not None, "there are no rows"
        return self._longest

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = self._ends[index], self._ends[index + 1]
        self._file.seek(start)
        return _row(self._file.read(end - start), self._sizes[index])

    def close(self) -> None:
        """Give the disk back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def longest_of(rows: Sequence[Row]) -> Row:
    """The row of most tokens, the first of equal ones."""
    if isinstance(rows, SpilledRows):
        return rows.longest
    return max(rows, key=lambda row: row.num_tokens)


def _record(row: Row) -> tuple[bytes, int]:
    """A row's bytes, and their number before they were compressed."""
    prompt, responses = row.prompt, row.responses
    weights = [response.advantage for response in responses]
    plain = (Response(token_ids=r.token_ids, advantage=r.advantage) for r in responses)
    assert responses == tuple(plain), "not a supervised row"
    arrays = [prompt.token_ids, *(response.token_ids for response in responses)]
    head = json.dumps(
        [
            *(row.video, prompt.clip_key, prompt.fingerprint, prompt.version),
            prompt.semantic_tokenizer,
            [len(one) for one in arrays],
            weights,
        ]
    ).encode()
    tokens = b"".join(one.tobytes() for one in arrays)
    data = len(head).to_bytes(4, "little") + head + tokens
    return pa.compress(data, codec=_CODEC, asbytes=True), len(data)


def _row(record: bytes, size: int) -> Row:
    data = pa.decompress(record, decompressed_size=size, codec=_CODEC, asbytes=True)
    at = 4 + int.from_bytes(data[:4], "little")
    video, clip_key, fingerprint, version, tokenizer, lengths, weights = json.loads(data[4:at])
    arrays = []
    for length in lengths:
        arrays.append(TokenIds.of_bytes(data[at : at + 4 * length]))
        at += 4 * length
    return Row(
        prompt=Prompt(
            token_ids=arrays[0],
            clip_key=clip_key,
            fingerprint=fingerprint,
            version=version,
            semantic_tokenizer=tokenizer,
        ),
        video=video,
        responses=tuple(
            Response(token_ids=one, advantage=weight)
            for one, weight in zip(arrays[1:], weights, strict=True)
        ),
    )
