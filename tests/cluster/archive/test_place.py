"""A run directory or an archive, and nothing else."""

from pathlib import Path

import pytest

from cluster.archive.place import archive_directory
from tests.cluster.trace_archives import write_archive
from wire.errors import ConfigError


def test_a_run_and_its_archive_are_the_same_place(tmp_path: Path):
    write_archive(tmp_path)
    assert archive_directory(tmp_path) == tmp_path / "archive"
    assert archive_directory(tmp_path / "archive") == tmp_path / "archive"


def test_another_folder_or_none_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="holds no traces; give the directory of a run"):
        archive_directory(tmp_path)
    with pytest.raises(ConfigError, match="is not there; give"):
        archive_directory(tmp_path / "none")
