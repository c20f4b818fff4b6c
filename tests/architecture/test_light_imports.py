"""Some imports must stay light: a type, a recipe or a plain worker must not load an engine."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.product import ROOT, product_files

HEAVY = ("ray", "vllm", "deepspeed", "torch", "transformers")
SLOW = (*HEAVY, "pandas", "scipy", "sklearn", "httpx", "huggingface_hub")
RUN = ROOT / "tests/data/run_before_move/finished"

COMMANDS = """
import json, sys
from cluster.cli import main
for command in json.loads(sys.argv[1]):
    status = main(command)
    loaded = [name for name in {slow!r} if name in sys.modules]
    if status or loaded:
        sys.exit(f"{{command}} ends with {{status}}, having loaded {{loaded}}")
"""


@pytest.mark.parametrize(
    "module",
    [
        "wire.types",
        "wire.config",
        "wire.labels",
        "wire.archive",
        "video.config",
        "video.semantic_tokens.codes_file",
        "video.semantic_tokens.config",
        "video.semantic_tokens.description",
        "video.semantic_tokens.narrative",
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
        "calibrate.classifier",
        "calibrate.calibration",
        "calibrate.decision",
        "calibrate.shift.monitor",
        "calibrate.splitting.alignment",
        "calibrate.splitting.benchmark_run",
        "calibrate.splitting.low_shot",
        "calibrate.splitting.metrics",
        "calibrate.splitting.text_encoders",
        "cluster.classify.inputs",
        "cluster.classify.open",
        "cluster.classify.pipeline",
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


def test_serving_a_calibration_loads_no_library_that_fits_one():
    libraries = ("sklearn", "mapie", "crepes", "cleanlab", "pandas", "scipy", "torch")
    code = f"""
import sys, calibrate.decision
from calibrate.calibrator import Calibrator
from calibrate.calibration import Calibration
one = Calibration(calibrator=Calibrator(label_names=("a", "b"), weights={{"policy": 1.0}}))
one = Calibration.from_json(one.to_json())
row = one.calibrator.probabilities({{"policy": [[0.0, 1.0]]}})[0]
calibrate.decision.decide(row, one)
print(*[m for m in {libraries!r} if m in sys.modules])
"""
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == ""


def test_light_commands_load_nothing_slow(tmp_path: Path):
    """Each of them answers within a second: `python -m tests.benchmarks.light_commands`."""
    run, manifest = tmp_path / "run", tmp_path / "m.jsonl"
    shutil.copytree(RUN, run)
    shutil.copytree(RUN, tmp_path / "other")
    rows = [
        {"id": str(n), "video": "a.mp4", "label": "ab"[n % 2], "split": split}
        for n, split in enumerate(("train", "train", "cal", "cal", "test", "test"))
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.mp4").write_bytes(b"0")
    commands = [
        ["ls", str(tmp_path)],
        ["status", str(run)],
        ["compare", str(run), str(tmp_path / "other")],
        ["report", str(run)],
        ["init", str(manifest), str(tmp_path / "r.toml"), "--model", "m", "--num-gpus", "0"],
        ["plan", str(ROOT / "recipes/demo.toml")],
        ["prompts", str(tmp_path / "r.toml")],
    ]
    script = COMMANDS.format(slow=SLOW)
    subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)], cwd=ROOT, check=True, timeout=120
    )


def test_no_file_is_read_as_a_pickle():
    """What comes from outside is safetensors, Parquet or JSON; our checkpoints, too."""
    unsafe = re.compile(
        r"\btorch\.load\b|\bpickle\.(?:load|Unpick)|\bjoblib\b|allow_pickle|load_checkpoint\("
    )
    found = [path for path in product_files() if unsafe.search((ROOT / path).read_text())]
    assert not found
