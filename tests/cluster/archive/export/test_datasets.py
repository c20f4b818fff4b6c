"""The folder opens with load_from_disk and with load_dataset, with the archive's rows and types."""

from pathlib import Path

import pytest

from cluster.archive.export.export import export
from cluster.archive.rows import as_in_files
from cluster.archive.where import EVERY_ROW
from tests.cluster.trace_archives import write_archive
from wire.archive.archive import read_table
from wire.errors import ConfigError

datasets = pytest.importorskip("datasets")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_archive(tmp_path)
    return tmp_path / "archive"


def test_both_loaders_give_the_rows_of_each_split(archive: Path, tmp_path: Path):
    target = tmp_path / "out"
    export(archive, target, "datasets", EVERY_ROW)
    expected = as_in_files(read_table(archive))
    from_disk = datasets.load_from_disk(str(target))
    loaded = datasets.load_dataset(str(target), cache_dir=str(tmp_path / "cache"))
    for splits in (from_disk, loaded):
        assert list(splits) == ["train", "cal"]
        rows = {name: splits[name].to_list() for name in splits}
        for name in splits:
            own = [row for row in expected.to_pylist() if row["split"] == name]
            assert rows[name] == own
        assert splits["train"].data.schema.remove_metadata() == expected.schema
    assert "personal data" in (target / "README.md").read_text()


def test_columns_without_the_split_are_refused(archive: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="add split to --columns"):
        export(archive, tmp_path / "out", "datasets", EVERY_ROW, ["label"])
    assert not (tmp_path / "out").exists()
