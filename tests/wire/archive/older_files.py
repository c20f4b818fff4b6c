"""Journals and Parquet files as older versions of the archive wrote them. (No test file.)"""

import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wire.archive.trace_rows import SCHEMAS, journal_schemas, packed, rows_of
from wire.types import TraceGroup


def older_rows(group: TraceGroup, version: int) -> pa.Table:
    """The rows of a group in the schema of Parquet files of version 1, 2, 3 or 4."""
    schema = SCHEMAS[version]
    table = rows_of(group)
    if version >= 3:
        return table.select(schema.names).cast(schema)
    columns = {name: table[name] for name in schema.names}
    columns["logprobs"] = table["logprobs"].cast(schema.field("logprobs").type)
    return pa.table(columns, schema=schema)


def write_older_parquet(path: Path, version: int, *groups: TraceGroup) -> None:
    """A Parquet file, with one row group."""
    table = pa.concat_tables(older_rows(group, version) for group in groups)
    metadata = {b"deepintuit.trace_schema": str(version).encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")


def write_older_journal(path: Path, version: int, *groups: TraceGroup) -> None:
    """A journal: a frame for each group, which is a compressed Arrow stream; since version 3 two
    compressed Arrow batches behind their sizes."""
    data = struct.pack("<8sI", b"DITRACES", version)
    for group in groups:
        payload = _batches(group, version) if version >= 3 else _stream(older_rows(group, version))
        checksum = zlib.crc32(payload, zlib.crc32(struct.pack("<Q", len(payload))))
        data += struct.pack("<4sQI", b"\xf7DI\x00", len(payload), checksum) + payload
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    compressed = pa.CompressedOutputStream(sink, "zstd")
    with compressed, pa.ipc.new_stream(compressed, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _batches(group: TraceGroup, version: int) -> bytes:
    parts = zip(packed(group), journal_schemas(version), strict=True)
    batches = [batch.select(schema.names).serialize() for batch, schema in parts]
    body = pa.compress(pa.py_buffer(b"".join(batches)), codec="zstd", asbytes=True)
    return struct.pack("<QQQ", *map(len, batches), len(body)) + body
