"""Lance data set of the traces; needs the extra ``deepintuit[lance]``."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from wire.errors import ConfigError


def write_lance(tables: Iterator[pa.Table], schema: pa.Schema, path: Path) -> None:
    """A folder that ``lance.dataset`` opens. Raises ConfigError if Lance is not installed."""
    try:
        import lance
    except ImportError as error:
        raise ConfigError(
            "--format lance needs Lance, which is not installed: pip install 'deepintuit[lance]'"
        ) from error
    batches = (batch for table in tables for batch in table.to_batches())
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), str(path))
