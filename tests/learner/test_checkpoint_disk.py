"""A checkpoint that does not fit: one rank of a real group, a real disk of 1 MiB."""

import gc
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from learner import checkpoint
from wire.errors import DiskFull


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this process may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(autouse=True)
def _one_rank(tmp_path: Path) -> Iterator[None]:
    meeting = (tmp_path / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def save(directory: Path, tag: str, num_floats: int) -> None:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        save_file({"weights": torch.zeros(num_floats)}, folder / "rank-00000-000.safetensors")

    checkpoint.save(write, directory, tag, 0, "float32")


def test_the_last_good_checkpoint_stays_and_what_did_not_fit_is_gone(small_disk: Path):
    save(small_disk, "step-000001", 1000)
    with pytest.raises(DiskFull, match=rf"the disk of {small_disk}.* is full"):
        save(small_disk, "step-000002", 2**20)
    assert [path.name for path in small_disk.iterdir()] == ["step-000001"]
    assert checkpoint.latest(small_disk) == "step-000001"
    gc.collect()  # a writer, held by the traceback, may hold the removed file
    save(small_disk, "step-000003", 1000)
    assert checkpoint.latest(small_disk) == "step-000003"
