"""Some imports must stay light: a type, a recipe or a plain worker must not load an engine."""

import subprocess
import sys

import pytest

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
        "learner.rows",
        "calibrate.config",
        "calibrate.metrics",
        "calibrate.compare",
        "cluster.config",
        "cluster.data",
        "cluster.loop",
        "cluster.plan",
        "cluster.report.write",
        "cluster.check",
        "cluster.cli",
        "cluster.compare",
        "cluster.results_page",
        "cluster.study",
        "cluster.table",
    ],
)
def test_importing_it_loads_no_engine(module: str):
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
