"""Paths in fsspec's store in memory; those in S3 are tested in tests/wire/archive/test_store.py."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from wire.errors import ConfigError
from wire.remote_path import RemotePath, place_of
from wire.whole_file import whole_file, write_json


@pytest.fixture
def folder() -> Iterator[Path]:
    yield place_of("memory://bucket/run")
    fsspec.filesystem("memory").store.clear()


def test_a_text_with_a_scheme_is_a_place_in_a_store_and_any_other_a_path(tmp_path: Path) -> None:
    assert type(place_of(str(tmp_path))) is type(tmp_path)
    place = place_of("s3://bucket/run/")
    assert isinstance(place, RemotePath)
    assert str(place / "traces" / "a.parquet") == "s3://bucket/run/traces/a.parquet"
    assert (place / "a.b").suffix == ".b"
    assert (place / "x" / "y").parents[1] == place
    assert repr(place.parent) == "RemotePath('s3://bucket')"


def test_objects_are_written_listed_read_and_removed(folder: Path) -> None:
    assert not folder.exists()
    assert list(folder.glob("*")) == []
    write_json(folder / "a.json", {"b": 1})
    with whole_file(folder / "c.bin", sync=True) as partial, partial.open("wb") as file:
        file.write(b"123")
    assert [path.name for path in folder.glob("*.*")] == ["a.json", "c.bin"]
    assert [path.name for path in folder.glob("c*")] == ["c.bin"]
    assert '"b": 1' in (folder / "a.json").read_text()
    assert (folder / "c.bin").stat().st_size == 3
    assert folder.is_dir()
    assert (folder / "c.bin").is_file()
    (folder / "c.bin").unlink()
    (folder / "c.bin").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "c.bin").unlink()
    with pytest.raises(FileNotFoundError):
        (folder / "c.bin").stat()


def test_what_fails_while_it_is_written_leaves_nothing(folder: Path) -> None:
    def write() -> None:
        with whole_file(folder / "a") as partial:
            partial.open("wb").close()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert list(folder.glob("*")) == []


def test_a_store_s_path_is_never_taken_for_a_local_one(folder: Path) -> None:
    for act in (shutil.rmtree, os.listdir, Path.rmdir):
        with pytest.raises(TypeError, match="not on this machine; `deepintuit archive copy`"):
            act(folder)


def test_a_scheme_that_nobody_knows_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nosuch://.*give a local path or s3://"):
        place_of("nosuch://a").exists()
