"""Hugging Face ``datasets`` folder: ``load_from_disk`` and ``load_dataset`` open it.

    tables -> a stream per split -> DatasetDict.save_to_disk -> train/, val/, ..., README.md

The splits are the archive's column ``split``. The README's header tells ``load_dataset`` which
files are which split, and the Hub shows it as the data set's card.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wire.errors import ConfigError
from wire.types import Split

_CARD = """---
configs:
- config_name: default
  data_files:
{files}
---

Traces of a DeepIntuit run: a row is one answer of the model to one clip. Videos are not in it.
It may hold personal data: labels, ids, file names, and what the model wrote about people in a
video.
"""


def write_datasets(tables: Iterator[pa.Table], schema: pa.Schema, path: Path) -> None:
    """A folder with a data set per split. Raises ConfigError without the column ``split``."""
    if "split" not in schema.names:
        raise ConfigError("a data set has splits; add split to --columns")
    from datasets import Dataset, DatasetDict
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    streams = path / "streams"
    streams.mkdir(parents=True)
    names = _write_streams(tables, streams)
    splits = {name: Dataset.from_file(str(streams / f"{name}.arrow")) for name in names}
    DatasetDict(splits).save_to_disk(str(path))
    del splits
    shutil.rmtree(streams)
    files = "\n".join(f"  - split: {name}\n    path: {name}/*.arrow" for name in names)
    (path / "README.md").write_text(_CARD.format(files=files))


def _write_streams(tables: Iterator[pa.Table], folder: Path) -> list[str]:
    """Write the rows of each split to a file of its own; returns the splits in their order."""
    writers: dict[str, Any] = {}
    with ExitStack() as stack:
        for table in tables:
            for name in table["split"].unique().to_pylist():
                if name not in writers:
                    file = str(folder / f"{name}.arrow")
                    writers[name] = stack.enter_context(pa.ipc.new_stream(file, table.schema))
                writers[name].write_table(table.filter(pc.equal(table["split"], name)))
    return [split.value for split in Split if split.value in writers]
