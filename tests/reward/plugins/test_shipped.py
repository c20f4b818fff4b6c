"""Where a user function's file is on a node: by path, from the working folder, or not at all."""

from pathlib import Path

import pytest

from reward.config import RewardTerm
from reward.plugins.shipped import ShippedFunction
from wire.errors import ConfigError

SOURCE = "def compute_score(solution_str):\n    return 1.0\n"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Working folders of the driver, which has the file, and of a node."""
    driver, node = tmp_path / "driver", tmp_path / "node"
    for folder in (driver, node):
        (folder / "rewards").mkdir(parents=True)
    (driver / "rewards/mine.py").write_text(SOURCE)
    monkeypatch.chdir(driver)
    return driver, node


def shipped(function: str = "rewards/mine.py:compute_score") -> ShippedFunction:
    return ShippedFunction.of(RewardTerm(function=function), None)


def test_a_file_on_a_disk_that_all_nodes_share_is_read_from_the_drivers_path(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, node = folders
    function = shipped()
    monkeypatch.chdir(node)
    assert function.term_here().function == f"{driver}/rewards/mine.py:compute_score"


def test_a_file_that_came_with_the_job_is_read_from_the_nodes_working_folder(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, node = folders
    function = shipped()
    (driver / "rewards/mine.py").rename(node / "rewards/mine.py")
    monkeypatch.chdir(node)
    term = function.term_here()
    assert (term.function, term.part) == (f"{node}/rewards/mine.py:compute_score", "compute_score")


def test_an_older_copy_at_the_drivers_path_does_not_stand_in_for_the_shipped_file(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, node = folders
    function = shipped()
    (node / "rewards/mine.py").write_text(SOURCE)
    (driver / "rewards/mine.py").write_text(SOURCE.replace("1.0", "0.0"))
    monkeypatch.chdir(node)
    assert function.term_here().function == f"{node}/rewards/mine.py:compute_score"


def test_a_file_that_a_node_lacks_is_refused_with_both_paths_and_what_to_do(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, node = folders
    function = shipped()
    (driver / "rewards/mine.py").unlink()
    monkeypatch.chdir(node)
    lacking = f"there is no file {driver}/rewards/mine.py or {node}/rewards/mine.py; start the run"
    with pytest.raises(ConfigError, match=lacking):
        function.term_here()


def test_another_file_of_that_name_is_refused(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, _ = folders
    function = shipped()
    (driver / "rewards/mine.py").write_text(SOURCE.replace("1.0", "0.0"))
    with pytest.raises(ConfigError, match=r"mine\.py is another file than the driver's"):
        function.term_here()


def test_a_module_is_found_by_each_nodes_own_python(folders: tuple[Path, Path]) -> None:
    function = shipped("my_rewards.text:of_a_module")
    assert function.term_here().function == "my_rewards.text:of_a_module"


def test_a_file_that_the_driver_lacks_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        shipped("rewards/other.py:compute_score")
