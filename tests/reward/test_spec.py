import sys
from pathlib import Path

import pytest

from reward.spec import locate, source_of
from wire.errors import ConfigError


def test_an_entry_point_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "my_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[deepintuit.rewards]\nbrevity = my_rewards.a:short\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert locate("brevity") == "my_rewards.a:short"
    with pytest.raises(ConfigError, match="did you mean 'brevity'"):
        locate("brevty")


def test_a_missing_file_is_found_without_importing_and_its_neighbour_named(
    tmp_path: Path,
) -> None:
    (tmp_path / "rewards.py").touch()
    with pytest.raises(ConfigError, match=r"there is no file .* did you mean 'rewards.py'"):
        locate(f"{tmp_path}/reward.py:compute_score")


def test_an_entry_point_that_two_packages_offer_is_refused_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("ours_a", "ours_b"):
        info = tmp_path / f"{package}-1.dist-info"
        info.mkdir()
        lines = f"[deepintuit.rewards]\nbrevity = {package}:short\nwhole = {package}\n"
        (info / "entry_points.txt").write_text(lines)
        (info / "METADATA").write_text(f"Name: {package}\nVersion: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="says ours_a:short and ours_b:short, expected one"):
        locate("brevity")
    with pytest.raises(ConfigError, match=r"expected one package\.module:function"):
        locate("whole")


def test_the_source_of_a_function_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "of_mine").mkdir()
    (tmp_path / "of_mine" / "brevity.py").write_text("raise SystemExit\n")
    file = tmp_path / "of_mine" / "brevity.py"
    assert source_of(f"{file}:f") == source_of("of_mine.brevity:f") == file
    assert source_of("of_mine.length:f") is None
