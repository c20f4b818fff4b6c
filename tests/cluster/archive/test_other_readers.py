"""An archive opens unchanged in pyarrow, DuckDB, polars and datasets: same rows, types, values."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pytest

from cluster.archive.rows import as_in_files
from tests.cluster.trace_archives import write_archive
from wire.archive.archive import Archive, read_table


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """All groups in Parquet files."""
    write_archive(tmp_path)
    with Archive(tmp_path / "archive", 0) as archive:
        archive.compact(3)
    return tmp_path / "archive" / "traces"


@pytest.fixture
def expected(traces: Path) -> pa.Table:
    table = as_in_files(read_table(traces.parent))
    assert table.num_rows == 17
    return table


def test_pyarrow(traces: Path, expected: pa.Table):
    table = pyarrow.dataset.dataset(traces).to_table()
    assert table.schema.remove_metadata() == expected.schema
    assert table.to_pylist() == expected.to_pylist()


def test_duckdb(traces: Path, expected: pa.Table):
    duckdb = pytest.importorskip("duckdb")
    answer = duckdb.sql(f"SELECT * FROM read_parquet('{traces}/*.parquet')")
    assert answer.to_arrow_table().to_pylist() == expected.to_pylist()
    types = dict(zip(answer.columns, map(str, answer.types), strict=True))
    assert {name: types[name] for name in ("token_ids", "logprobs", "step", "reward", "text")} == {
        "token_ids": "INTEGER[]",
        "logprobs": "FLOAT[]",
        "step": "BIGINT",
        "reward": "DOUBLE",
        "text": "VARCHAR",
    }


def test_polars(traces: Path, expected: pa.Table):
    polars = pytest.importorskip("polars")
    table = polars.scan_parquet(f"{traces}/*.parquet").collect()
    assert table.schema["logprobs"] == polars.List(polars.Float32)
    assert table.schema["token_ids"] == polars.List(polars.Int32)
    assert table.to_dicts() == expected.to_pylist()


def test_datasets(traces: Path, expected: pa.Table, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    files = str(traces / "*.parquet")
    cache = str(tmp_path / "cache")
    table: Any = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    assert table.data.schema.remove_metadata() == expected.schema
    assert table.to_list() == expected.to_pylist()
