"""Sizes of a manifest for the report: clips per split, train clips with a trace.

manifest (JSONL, Parquet) -> counts
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path


def manifest_sizes(manifest: Path) -> tuple[Counter[str], int]:
    """Count clips per split, and train clips with a trace; files of clips need not exist."""
    sizes: Counter[str] = Counter()
    with_trace = 0
    for split, has_trace in _manifest_rows(manifest):
        sizes[split] += 1
        with_trace += has_trace and split == "train"
    return sizes, with_trace


def _manifest_rows(manifest: Path) -> Iterator[tuple[str, bool]]:
    if manifest.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(manifest) as file:
            columns = [name for name in ("split", "trace") if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=columns):
                yield from ((row["split"], bool(row.get("trace"))) for row in batch.to_pylist())
        return
    with manifest.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                row = json.loads(line)
                yield row["split"], bool(row.get("trace"))
