"""Exports are whole or not there, hold what the filter keeps, and are written in bounded memory."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.archive.export import export as export_module
from cluster.archive.export.export import WRITERS, export
from cluster.archive.where import EVERY_ROW, parse_where
from tests.buckets import s3_bucket
from tests.cluster.trace_archives import make_groups, write_archive
from wire.archive.store import copy_archive
from wire.errors import ConfigError
from wire.remote_path import place_of

NUM_ROWS = sum(max(1, len(group.traces)) for group in make_groups())
FORMS = list(WRITERS)
ROOT = Path(__file__).parents[4]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_archive(tmp_path / "run")
    return tmp_path / "run" / "archive"


@pytest.mark.parametrize("form", FORMS)
def test_every_format_counts_what_it_wrote(archive: Path, tmp_path: Path, form: str):
    exported = export(archive, tmp_path / "new" / "out", form, EVERY_ROW)
    assert exported.num_rows == (NUM_ROWS - 1 if form == "scout" else NUM_ROWS)
    assert exported.num_bytes > 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_there_is_not_overwritten(archive: Path, tmp_path: Path, form: str):
    target = tmp_path / "out"
    target.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        export(archive, target, form, EVERY_ROW)
    assert target.read_text() == "mine"


@pytest.mark.parametrize("form", FORMS)
def test_a_failure_on_the_way_leaves_nothing(
    archive: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
):
    real = export_module.scan

    def failing(*arguments: object) -> Iterator[pa.Table]:
        yield next(real(*arguments))
        raise OSError("the disk failed")

    monkeypatch.setattr(export_module, "scan", failing)
    (tmp_path / "out.partial").mkdir()  # of an export that was killed
    with pytest.raises(OSError, match="the disk failed"):
        export(archive, tmp_path / "out", form, EVERY_ROW)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_no_match_writes_nothing(archive: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no trace of .* matches; nothing was written"):
        export(archive, tmp_path / "out", "jsonl", parse_where(["reward>100"]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["scout", "jsonl-groups"])
def test_a_format_with_columns_of_its_own_takes_no_others(archive: Path, tmp_path: Path, form: str):
    with pytest.raises(ConfigError, match="leave --columns out"):
        export(archive, tmp_path / "out", form, EVERY_ROW, ["label"])


def test_progress_counts_the_rows_that_were_read(archive: Path, tmp_path: Path):
    read: list[int] = []
    export(archive, tmp_path / "out", "jsonl", parse_where(["label=undo"]), None, read.append)
    assert sum(read) == NUM_ROWS


def test_from_a_store_to_a_store_whole_or_not_at_all(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with s3_bucket() as bucket:
        stored = place_of(f"{bucket}/runs/shapes/archive")
        copy_archive(archive, stored)
        target = place_of(f"{bucket}/out/traces.jsonl")
        exported = export(stored, target, "jsonl", EVERY_ROW)
        export(archive, tmp_path / "local.jsonl", "jsonl", EVERY_ROW)
        assert target.read_text() == (tmp_path / "local.jsonl").read_text()
        assert exported.num_bytes == target.stat().st_size
        with pytest.raises(ConfigError, match=r"s3://.*/out/traces.jsonl is there already"):
            export(stored, target, "jsonl", EVERY_ROW)
        folder = place_of(f"{bucket}/out/scout")
        export(stored, folder, "scout", EVERY_ROW)
        assert [path.name for path in folder.glob("*")] == ["transcripts.parquet"]

        def failing(*_: object, **__: object) -> None:
            (folder.parent / "broken" / "part").create(b"half")
            raise OSError("the store failed")

        monkeypatch.setattr(folder.system, "put", failing)
        with pytest.raises(OSError, match="the store failed"):
            export(stored, folder.parent / "broken", "scout", EVERY_ROW)
        assert not (folder.parent / "broken").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_memory_does_not_grow_with_the_archive(tmp_path: Path, form: str):
    """The peak of a process that writes many more rows is about the same: as they are in files
    some 160 MB more, as Python's numbers some 200."""
    run = tmp_path / "run"
    write_archive(run, make_groups(100, num_tokens=1000))
    words = [sys.executable, "-c", PEAKS, str(run / "archive"), str(tmp_path / "out"), form]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    few, many, written = map(float, done.stdout.split())
    mapped = written if form == "datasets" else 0  # files that the library maps
    assert many - few < 80 + mapped


PEAKS = """
import itertools, resource, sys
from pathlib import Path
from cluster.archive.export import export as module
from cluster.archive.where import EVERY_ROW
archive, out, form = sys.argv[1:]
few, many = (5, 20) if form.startswith("jsonl") else (40, 400)
real, times = module.scan, 0
def repeated(*arguments):
    tables = list(real(*arguments))
    yield from itertools.chain.from_iterable(itertools.repeat(tables, times))
module.scan = repeated
for times in (few, many):
    exported = module.export(Path(archive), Path(f"{out}{times}"), form, EVERY_ROW)
    assert exported.num_rows >= 200 * times, exported
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(exported.num_bytes / 1e6)
"""
