import os
from pathlib import Path

import pytest

from video.config import VideoConfig
from video.disk_cache import location
from video.disk_cache.location import VARIABLE, cache_folder, default_folder, in_memory

MOUNTS = """\
overlay / overlay rw 0 0
tmpfs /tmp tmpfs rw 0 0
/dev/nvme0n1 /tmp/scratch\\040x ext4 rw 0 0
/dev/nvme1n1 /tmp/local ext4 rw 0 0
ramfs /mnt/ram ramfs rw 0 0
"""


def test_the_recipe_comes_first_then_the_nodes_variable_then_its_temporary_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "node"))
    assert cache_folder(VideoConfig(cache_dir=tmp_path / "recipe")) == tmp_path / "recipe"
    assert cache_folder(VideoConfig()) == tmp_path / "node"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(location, "_MOUNTS", tmp_path / "none")
    folder = cache_folder(VideoConfig())
    assert folder == tmp_path / f"deepintuit-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache_folder(VideoConfig()) == folder


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("/tmp", True), ("/tmp/local", False), ("/tmpfoo", False), ("/var/tmp", False)],
)
def test_a_folder_in_memory_is_told_by_its_mount(folder: str, expected: bool):
    assert in_memory(Path(folder), MOUNTS) is expected
    assert not in_memory(Path(folder), "")


def test_a_disk_is_taken_before_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ram, disk = tmp_path / "ram", tmp_path / "disk"
    for place in (ram, disk):
        place.mkdir()
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\ntmpfs {ram} tmpfs rw 0 0\n")
    monkeypatch.setattr(location, "_MOUNTS", mounts)
    assert default_folder([ram, disk]).parent == disk
    assert default_folder([ram]).parent == ram


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_folder_that_somebody_else_put_there_is_not_used(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first, second):
        place.mkdir()
    taken = first / f"deepintuit-{os.getuid()}"
    if kind == "file":
        taken.write_text("x")
    else:
        taken.symlink_to(second)
    assert default_folder([first, second]).parent == second
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder([first]) == tmp_path / ".cache" / "deepintuit"
