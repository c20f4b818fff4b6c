"""Lance opens the export, with the archive's rows and types."""

import sys
from pathlib import Path

import pytest

from cluster.archive.export.export import export
from cluster.archive.rows import as_in_files
from cluster.archive.where import EVERY_ROW
from tests.cluster.trace_archives import write_archive
from wire.archive.archive import read_table
from wire.errors import ConfigError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_archive(tmp_path)
    return tmp_path / "archive"


def test_lance_gives_the_rows_also_at_random(archive: Path, tmp_path: Path):
    lance = pytest.importorskip("lance")
    export(archive, tmp_path / "out.lance", "lance", EVERY_ROW)
    dataset = lance.dataset(str(tmp_path / "out.lance"))
    expected = as_in_files(read_table(archive))
    assert dataset.schema == expected.schema
    assert dataset.to_table().to_pylist() == expected.to_pylist()
    assert dataset.take([5, 1]).to_pylist() == expected.take([5, 1]).to_pylist()


def test_without_lance_the_command_that_installs_it(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(ConfigError, match=r"pip install 'deepintuit\[lance\]'"):
        export(archive, tmp_path / "out", "lance", EVERY_ROW)
    assert not (tmp_path / "out").exists()
