"""The linker's path to torch's libraries, from a checkout whose path has spaces."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import cpp_extension

from learner.ranks.linked_libraries import link_libraries

BUILD = """
import sys
from pathlib import Path
from torch.utils import cpp_extension
cpp_extension.TORCH_LIB_PATH = sys.argv[1]  # as in a checkout of that path
from learner.config import LearnerConfig
from learner.engine import join_ranks
from learner.ranks.rendezvous import open_rendezvous
join_ranks(LearnerConfig(num_gpus=0), 0, "127.0.0.1", open_rendezvous(1))
"""


@pytest.fixture
def spaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's libraries at a path with spaces."""
    libraries = tmp_path / "my own checkout/lib"
    libraries.parent.mkdir()
    libraries.symlink_to(cpp_extension.TORCH_LIB_PATH)
    monkeypatch.setattr(cpp_extension, "TORCH_LIB_PATH", str(libraries))
    return libraries


def test_a_link_without_a_space_stands_in(spaced: Path, tmp_path: Path):
    folder = tmp_path / "builds"
    link_libraries([tmp_path / "with space", folder])
    link = Path(cpp_extension.TORCH_LIB_PATH)
    assert link.parent == folder
    assert link.readlink() == spaced
    assert [path.name for path in folder.iterdir()] == [link.name], "nothing half made is left"


def test_a_link_of_a_checkout_that_is_gone_is_made_anew(spaced: Path, tmp_path: Path):
    folder = tmp_path / "builds"
    for _ in range(2):
        cpp_extension.TORCH_LIB_PATH = str(spaced)
        link_libraries([folder])
    assert Path(cpp_extension.TORCH_LIB_PATH).resolve() == spaced.resolve()


def test_a_path_without_a_space_stays(tmp_path: Path):
    before = cpp_extension.TORCH_LIB_PATH
    if " " not in before:
        link_libraries([tmp_path / "builds"])
        assert before == cpp_extension.TORCH_LIB_PATH
        assert not (tmp_path / "builds").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_deepspeeds_operator_is_compiled_from_a_path_with_spaces(spaced: Path, tmp_path: Path):
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path / "builds")}
    command = [sys.executable, "-c", BUILD, str(spaced)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "builds").rglob("deepspeed_shm_comm.so"))
