"""A real full disk: a tmpfs of a megabyte where this process may mount one, /dev/full elsewhere."""

import errno
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wire.disk import full_disk, naming_full_disk
from wire.errors import ArchiveError, DiskFull


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB, nothing on it."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this process may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_with_what_is_free_and_what_to_do(small_disk: Path):
    with (
        pytest.raises(DiskFull, match=rf"the disk of {small_disk}/a is full \(0\.0 GB free\)"),
        naming_full_disk(small_disk / "a"),
    ):
        (small_disk / "a").write_bytes(b"x" * 2**21)


def test_torch_that_says_no_reason_is_understood_on_a_full_disk_only(small_disk: Path):
    torch = pytest.importorskip("torch")
    with pytest.raises(DiskFull, match="is full"), naming_full_disk(small_disk):
        torch.save(torch.zeros(2**20), small_disk / "weights.pt")
    other = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    assert full_disk(other, [Path("/proc")]) is None or full_disk(other, [small_disk])


def test_safetensors_on_a_full_disk(small_disk: Path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    with pytest.raises(DiskFull, match="is full"), naming_full_disk(small_disk):
        save_file({"a": torch.zeros(2**20)}, small_disk / "model.safetensors")


def test_parquet_on_a_full_disk(small_disk: Path):
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    noise = pa.table({"a": np.random.default_rng(0).random(2**19)})
    with pytest.raises(DiskFull, match="is full"), naming_full_disk(small_disk):
        pq.write_table(noise, small_disk / "predictions.parquet")


def test_the_place_with_the_least_room_is_named_if_the_error_names_none(
    small_disk: Path, tmp_path: Path
):
    (small_disk / "filler").write_bytes(b"x" * 2**19)
    error = full_disk(OSError(errno.ENOSPC, "No space left on device"), [tmp_path, small_disk])
    assert error is not None
    assert str(small_disk) in str(error)


def test_it_is_found_behind_causes_groups_and_other_errors(tmp_path: Path):
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "journal"))
    archive = ArchiveError("cannot append")
    archive.__cause__ = full
    error = full_disk(ExceptionGroup("loops", [ValueError("x"), archive]), [])
    assert error is not None
    assert str(tmp_path / "journal") in str(error)


def test_an_error_that_crossed_a_process_is_known_by_its_words(tmp_path: Path):
    error = full_disk(RuntimeError("OSError: [Errno 28] No space left on device"), [tmp_path])
    assert isinstance(error, DiskFull)
    assert isinstance(pickle.loads(pickle.dumps(error)), DiskFull)
    assert full_disk(error, []) is error


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), ValueError("no space here")])
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path):
    assert full_disk(error, [tmp_path]) is None
    with pytest.raises(type(error)), naming_full_disk(tmp_path):
        raise error
