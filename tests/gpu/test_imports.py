"""What `python -m tests.gpu` may import: PyTorch, transformers, and what pip installs with them."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.catalogue import CHECKS

ROOT = Path(__file__).parents[2]

BLOCKER = """
import json, os, sys

blocked = set(json.loads(os.environ["BLOCKED_MODULES"]))

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in blocked:
            return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
"""Makes installed modules missing, for all processes that find it as sitecustomize."""


def distributions_of(name: str) -> set[str]:
    """A distribution and all that it requires, by normalised names."""
    needed: set[str] = set()
    to_do = [name]
    while to_do:
        one = re.sub("[-_.]+", "-", to_do.pop()).lower()
        if one in needed:
            continue
        try:
            requires = importlib.metadata.requires(one) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        needed.add(one)
        plain = [line for line in requires if "extra ==" not in line]
        to_do += [re.match(r"[\w.-]+", line).group() for line in plain]  # type: ignore[union-attr]
    return needed


def blocked_modules() -> list[str]:
    """Top-level modules of all other distributions here."""
    allowed = distributions_of("torch") | distributions_of("transformers")
    modules = importlib.metadata.packages_distributions()
    return [
        module
        for module, names in modules.items()
        if not allowed & {re.sub("[-_.]+", "-", name).lower() for name in names}
    ]


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which only they can be imported, also in its children."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    blocked = blocked_modules()
    assert {"vllm", "ray", "deepspeed", "peft", "jaxtyping", "av", "PIL", "pyarrow"} <= {*blocked}
    assert not {"torch", "transformers", "numpy", "safetensors"} & {*blocked}
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    return {**os.environ, "BLOCKED_MODULES": json.dumps(blocked), "PYTHONPATH": path}


def test_the_modules_of_the_checks_import_with_nothing_else_installed(bare: dict[str, str]):
    modules = sorted({check.module for check in CHECKS if not check.needs})
    script = (
        "import importlib, sys; from tests.gpu.shape_names import stand_in; stand_in(); "
        "[importlib.import_module(f'tests.gpu.{name}') for name in sys.argv[1:]]"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *modules], cwd=ROOT, env=bare, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_checks_run_with_nothing_else_installed(bare: dict[str, str], tmp_path: Path):
    """One of each kind, with what they import while they run."""
    chosen = list({check.module: check for check in CHECKS}.values())
    file = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "tests.gpu", "--device", "cpu", "--json", str(file), "--only"]
    done = subprocess.run(
        [*command, *(check.name for check in chosen), "--minutes", "9"],
        cwd=ROOT,
        env=bare,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["name"]: row for row in map(json.loads, file.read_text().splitlines())}
    left_out = {name for name, row in rows.items() if row["ok"] is None}
    # of the embedding cache the part that writes files
    assert left_out == {check.name for check in chosen if check.needs} | {"embedding_cache"}
    assert all("which is not installed" in rows[name]["note"] for name in left_out)
