"""Some imports must stay light: a type, a recipe or a plain worker must not load an engine."""

import re
import subprocess
import sys

import pytest

from tests.architecture.product import ROOT, product_files

HEAVY = ("ray", "vllm", "deepspeed", "torch", "transformers")


@pytest.mark.parametrize(
    "module",
    [
        "wire.types",
        "wire.config",
        "wire.labels",
        "wire.archive",
        "video.config",
        "rollout.config",
        "rollout.prompt",
        "rollout.manifest",
        "rollout.importers.importer",
        "rollout.worker",
        "reward.scorer",
        "learner.config",
        "learner.shared_prefix.rows",
        "calibrate.config",
        "calibrate.metrics",
        "calibrate.compare",
        "cluster.config.recipe",
        "cluster.inputs.samples",
        "cluster.loop",
        "cluster.plan.run_plan",
        "cluster.report.write",
        "cluster.check.recipe_check",
        "cluster.cli",
        "cluster.study.compare",
        "cluster.study.results_page",
        "cluster.study.runner",
        "cluster.study.compare_table",
    ],
)
def test_importing_it_loads_no_engine(module: str):
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_no_file_is_read_as_a_pickle():
    """What comes from outside is safetensors, Parquet or JSON; our checkpoints, too."""
    unsafe = re.compile(
        r"\btorch\.load\b|\bpickle\.(?:load|Unpick)|\bjoblib\b|allow_pickle|load_checkpoint\("
    )
    found = [path for path in product_files() if unsafe.search((ROOT / path).read_text())]
    assert not found
