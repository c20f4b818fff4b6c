"""Rows of Parquet files and of Hugging Face ``datasets`` directories (save_to_disk).

    tables -> class numbers to names, videos inside the file to files -> rows of plain values

Nothing is decoded: a video column is read as its path or its bytes.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from rollout.importers.fetch import MediaStore
from rollout.importers.rows import Row, is_video
from wire.errors import DataError

_VIDEO_COLUMNS = ("video", "videos", "clip", "clips")
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG")  # frames of a list


def parquet_rows(path: Path, store: MediaStore) -> list[tuple[str, Row]]:
    """(place, row) of each row. Raises DataError if it is no Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        return list(_rows(path.name, file.schema_arrow, file.iter_batches(batch_size=64), store))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}; give a Parquet file") from error


def dataset_rows(folder: Path, store: MediaStore) -> list[tuple[str, Row]]:
    """(place, row) of a directory of ``save_to_disk``; the splits of a dictionary as ``split``."""
    import pyarrow as pa
    from datasets import Dataset, load_from_disk

    try:
        loaded = load_from_disk(str(folder))
        parts = {None: loaded} if isinstance(loaded, Dataset) else dict(loaded)
        all_rows: list[tuple[str, Row]] = []
        for split, part in parts.items():
            batches = part.with_format("arrow").iter(batch_size=64)
            name = folder.name if split is None else f"{folder.name} {split}"
            rows = _rows(name, part.features.arrow_schema, batches, store)
            all_rows += [(where, {"split": split, **row} if split else row) for where, row in rows]
        return all_rows
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"cannot read the dataset {folder}: {error}; save it again with save_to_disk"
        ) from error


def _rows(
    name: str, schema: Any, batches: Iterable[Any], store: MediaStore
) -> Iterator[tuple[str, Row]]:
    features = _features(schema)
    rows = (row for batch in batches for row in batch.to_pylist())
    for number, row in enumerate(rows, start=1):
        yield (
            f"{name} row {number}",
            {key: _value(key, value, features.get(key), store) for key, value in row.items()},
        )


def _features(schema: Any) -> Mapping[str, Any]:
    """Column -> what ``datasets`` wrote of its type into the schema; empty if others wrote it."""
    written = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(written)["info"]["features"] if written else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _value(name: str, value: Any, feature: Any, store: MediaStore) -> Any:
    kind = feature.get("_type") if isinstance(feature, dict) else None
    if kind == "ClassLabel" and isinstance(value, int):
        names = feature.get("names") or []
        return names[value] if 0 <= value < len(names) else None
    entries = value if isinstance(value, list) else [value]
    if kind == "Video" or name in _VIDEO_COLUMNS or any(map(_names_video, entries)):
        paths = [_video(entry, store) for entry in entries]
        return paths if isinstance(value, list) else paths[0]
    return _plain(value)


def _names_video(entry: Any) -> bool:
    """Whether an entry of any column is a file with the name of a video."""
    return isinstance(entry, dict) and "bytes" in entry and is_video(str(entry.get("path") or ""))


def _video(entry: Any, store: MediaStore) -> Any:
    """A video inside the file, in a struct or as bare bytes, becomes a file of the store."""
    data = entry.get("bytes") if isinstance(entry, dict) else entry
    if not isinstance(data, bytes) or data.startswith(_PICTURES):
        return _plain(entry)
    name = entry.get("path") if isinstance(entry, dict) else None
    return str(store.keep(data, str(name or "video.mp4")))


def _plain(value: Any) -> Any:
    """JSON form of a value; bytes are left away."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return value if isinstance(value, str | int | float | bool) else None
