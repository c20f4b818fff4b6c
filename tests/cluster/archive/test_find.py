"""A group is found by its id wherever it lies."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.archive.find import find_groups
from tests.cluster.trace_archives import FAILED_ID, FIRST_ID, JOURNALED_ID, write_archive
from wire.archive.archive import Archive
from wire.archive.compaction import compact_archive
from wire.errors import ConfigError
from wire.types import PolicyVersion


@pytest.mark.parametrize("compacted", [False, True])
def test_a_group_in_parquet_in_the_journal_and_without_traces(tmp_path: Path, compacted: bool):
    groups = {group.group_id: group for group in write_archive(tmp_path)}
    if compacted:
        compact_archive(tmp_path / "archive")
    for group_id in (FIRST_ID, JOURNALED_ID, FAILED_ID):
        assert find_groups(tmp_path / "archive", group_id) == [groups[group_id]]


def test_attempts_that_wrote_the_same_id_are_all_found_the_newest_last(tmp_path: Path):
    groups = write_archive(tmp_path)
    again = replace(groups[1], policy_version=PolicyVersion(attempt=1, step=1))
    with Archive(tmp_path / "archive", 1) as archive:
        archive.append(again)
        assert find_groups(tmp_path / "archive", FIRST_ID) == [groups[1], again]


def test_an_unknown_id_gets_the_nearest(tmp_path: Path):
    write_archive(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'grpo/train/failed'"):
        find_groups(tmp_path / "archive", "grpo/trian/failed")
    with pytest.raises(ConfigError, match="some are: grpo/train"):
        find_groups(tmp_path / "archive", "#")
