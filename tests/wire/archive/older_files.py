"""Journals and Parquet files as older versions of the archive wrote them. (No test file.)"""

import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wire.archive.trace_rows import SCHEMAS, rows_of
from wire.types import TraceGroup


def older_rows(group: TraceGroup, version: int) -> pa.Table:
    """The rows of a group in the schema of version 1 or 2."""
    schema = SCHEMAS[version]
    table = rows_of(group)
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
    """A journal: a frame for each group, which is a compressed Arrow stream."""
    data = struct.pack("<8sI", b"DITRACES", version)
    for group in groups:
        table = older_rows(group, version)
        sink = pa.BufferOutputStream()
        packed = pa.CompressedOutputStream(sink, "zstd")
        with packed, pa.ipc.new_stream(packed, table.schema) as writer:
            writer.write_table(table)
        payload = sink.getvalue().to_pybytes()
        checksum = zlib.crc32(payload, zlib.crc32(struct.pack("<Q", len(payload))))
        data += struct.pack("<4sQI", b"\xf7DI\x00", len(payload), checksum) + payload
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
