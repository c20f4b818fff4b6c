import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from cluster.driver import versions
from cluster.driver.versions import package_versions, program_version


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.check_output(["git", "-C", folder, *who, *words], text=True).strip()


def test_the_program_in_a_checkout_has_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(versions, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(versions, "_NAME", "not-installed")
    assert program_version() == ("unknown", None, False)
    git(tmp_path, "init", "-q")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "7.1"')
    (tmp_path / "a.py").write_text("a = 1")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-qm", "One")
    assert program_version() == ("7.1", git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "a.py").write_text("a = 2")
    assert program_version().changed


def test_without_git_only_the_package_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(versions, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(versions, "_NAME", "numpy")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program_version() == (version("numpy"), None, False)


def test_versions_are_those_of_installed_packages_in_the_order_asked():
    found = package_versions(["torch", "no-such-package-anywhere", "numpy"])
    assert list(found.items()) == [("torch", version("torch")), ("numpy", version("numpy"))]
