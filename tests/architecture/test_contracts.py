"""The contracts of pyproject.toml hold, and each kind notices a wrong import."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.product import ROOT, product_files

pytestmark = pytest.mark.slow

PLANTED = {
    "Imports go one way, and the four services never import each other": (
        "rollout/sampler.py",
        "import learner.schedule",
    ),
    "Judging and calibrating need no pixels": ("calibrate/metrics.py", "import video.config"),
    "What looks at a run starts nothing": ("cluster/status/table.py", "import cluster.session"),
    "Ray only where actors are placed and called": ("cluster/session.py", "import ray"),
    "Reward: tools on top, then the scorer, then built-ins and user plugins, which do not know "
    "each other": ("reward/scorer.py", "import reward.tools.lint"),
    "Objectives are arithmetic: no engine, no ranks, no model": (
        "learner/objective/loss.py",
        "import learner.model.policy",
    ),
    "Inside cluster, imports go one way too": (
        "cluster/attic/__init__.py",  # a folder that stands on no floor
        '"""Attic."""',
    ),
}
"""Contract -> file, and the line that is added to it."""


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product's code and contracts."""
    copy = tmp_path_factory.mktemp("product")
    for path in product_files():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, copy / path)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def broken_contracts(product: Path) -> tuple[set[str], str]:
    """Names of the contracts that lint-imports finds broken; and its output."""
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint],
        cwd=product,
        env=os.environ | {"COLUMNS": "300", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    parts = [line.strip().partition(" BROKEN") for line in done.stdout.splitlines()]
    broken = {name for name, verdict, _ in parts if verdict}  # ignored imports may be told after it
    output = done.stdout + done.stderr
    assert (done.returncode == 0) == (not broken), output
    return broken, output


def test_the_product_keeps_its_contracts(product: Path):
    broken, output = broken_contracts(product)
    assert not broken, output
    assert "0 broken" in output


@pytest.mark.parametrize("contract", PLANTED)
def test_a_wrong_import_breaks_its_contract(product: Path, contract: str):
    name, line = PLANTED[contract]
    file = product / name
    before = file.read_text() if file.exists() else None
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{before or ''}\n{line}\n")
    try:
        broken, output = broken_contracts(product)
    finally:
        if before is None:
            shutil.rmtree(file.parent)
        else:
            file.write_text(before)
    assert contract in broken, output
