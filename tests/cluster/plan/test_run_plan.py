import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from cluster.config.recipe import read_recipe
from cluster.plan.run_plan import make_plan
from cluster.plan.table import print_plan
from cluster.plan.types import Plan, StagePlan

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "recipes/demo.toml"
STAGES = ("base", "coldstart", "grpo", "calibrated")
LABELS = ("relapse", "undo", "repeat", "zigzag", "varied")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """As many clips as the demo has, all of them one file: a plan opens none."""
    (tmp_path / "clip.mp4").touch()
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, train=600, with_trace=32, val=100, cal=600, test=300)
    return path


def write_manifest(path: Path, *, with_trace: int = 0, **splits: int) -> None:
    rows: list[dict[str, Any]] = [
        {
            "id": f"{split}-{index}",
            "video": "clip.mp4",
            "label": LABELS[index % 5],
            "split": split,
            "trace": "<think>a</think><answer>undo</answer>"
            if split == "train" and index < with_trace
            else None,
        }
        for split, count in splits.items()
        for index in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def planned(manifest: Path, *settings: str) -> Plan:
    model = f"model={ROOT / 'cluster/demo/base'}"
    config = read_recipe(DEMO, [f"data.manifest={manifest}", model, *settings])
    return make_plan(config, STAGES)


def stage(plan: Plan, name: str) -> StagePlan:
    return next(found for found in plan.stages if found.name == name)


def test_the_demo_is_planned_exactly(manifest: Path):
    plan = planned(manifest)
    assert [found.name for found in plan.stages] == list(STAGES)
    assert stage(plan, "coldstart") == StagePlan(
        name="coldstart",
        clips=32,
        epochs=40,
        rollouts=0,
        examples=32,
        updates=160,
        steps=0,
        saves=0,
        max_prompt_tokens=0,
        max_response_tokens=0,
    )
    assert stage(plan, "grpo") == StagePlan(
        name="grpo",
        clips=600,
        epochs=80 * 32 / 600,
        rollouts=20_480,
        examples=20_480,
        updates=80,
        steps=80,
        saves=8,
        max_prompt_tokens=80 * 32 * 384,
        max_response_tokens=20_480 * 40,
    )
    assert stage(plan, "calibrated") == StagePlan(
        name="calibrated",
        clips=450,
        epochs=2,
        rollouts=1800 + 150 + 100 + 4 * 550,
        examples=1800,
        updates=114,
        steps=0,
        saves=0,
        max_prompt_tokens=1250 * 384,
        max_response_tokens=4250 * 40,
        validations=7,
        validated=700,
    )
    assert plan.measurement is not None
    assert plan.measurement.clips == 300
    assert plan.step is not None
    assert (plan.step.rollouts, plan.step.updates) == (256, 1)
    assert plan.step.longest_row_tokens == 384 + 8 * 40
    assert plan.clip_tokens is not None
    assert plan.clip_tokens.tokens == 96
    assert plan.memory is not None
    assert plan.memory.parameters == 1_576_384
    assert (plan.notes, plan.warnings) == ((), ())


def test_validations_are_counted_in_val_clips(manifest: Path, capsys: pytest.CaptureFixture[str]):
    write_manifest(manifest, train=600, with_trace=32, val=100, cal=600, test=300)
    plan = planned(manifest, "validate.every=20", "grpo.validate.num_clips=64")
    counts = {one.name: (one.validations, one.validated) for one in plan.stages}
    assert counts == {
        "base": (0, 0),
        "coldstart": (9, 900),
        "grpo": (5, 5 * 64),
        "calibrated": (7, 700),
    }
    print_plan(plan, "demo")
    said = capsys.readouterr().out
    assert "grpo: 5 validations while it trains, 320 clips asked about in all" in said
    assert "base: " not in said


def test_workers_are_counted_with_what_ray_reserves_for_them(manifest: Path):
    plan = planned(
        manifest,
        "rollout.num_workers=3",
        "rollout.num_gpus=2",
        "rollout.tensor_parallel_size=2",
        "learner.num_ranks=4",
    )
    rollout, learner = plan.rollout, plan.learner
    assert (rollout.count, rollout.cpus, rollout.gpus, rollout.gpus_each) == (3, 1.5, 6, 2)
    assert (learner.count, learner.cpus, learner.gpus) == (4, 2, 0)


def test_without_a_verdict_calibration_updates_nothing(manifest: Path):
    found = stage(planned(manifest, "calibrate.methods=['head']"), "calibrated")
    assert (found.updates, found.examples) == (0, 1800)


def test_without_manifest_and_model_what_the_recipe_says_is_planned(tmp_path: Path):
    nowhere = [f"data.manifest={tmp_path / 'm.jsonl'}", f"model={tmp_path / 'model'}"]
    plan = make_plan(read_recipe(DEMO, nowhere), STAGES)
    grpo, coldstart = stage(plan, "grpo"), stage(plan, "coldstart")
    assert (grpo.rollouts, grpo.updates, grpo.epochs) == (20_480, 80, None)
    assert (coldstart.epochs, coldstart.updates) == (40, None)
    assert (plan.clips, plan.measurement, plan.memory, plan.clip_tokens) == (None,) * 4
    assert "no manifest" in plan.notes[0]
    assert "the model is not here" in plan.notes[1]


def test_a_model_that_is_not_here_may_be_known_by_name(manifest: Path, tmp_path: Path):
    plan = planned(manifest, f"model={tmp_path / 'Qwen2.5-VL-3B-Instruct'}")
    assert plan.memory is not None
    assert plan.memory.parameters == 3_754_622_976
    assert plan.clip_tokens is None  # the recipe leaves the pixels to a processor that is not here
    assert [note.partition(":")[0] for note in plan.notes][1] == "video tokens are unknown"


def test_a_model_of_the_hub_is_planned_by_its_name_and_not_downloaded(manifest: Path):
    plan = planned(manifest, "model=Qwen/Qwen3-VL-8B-Instruct")
    assert plan.model == "Qwen/Qwen3-VL-8B-Instruct"
    assert plan.memory is not None
    assert plan.memory.parameters == 8_767_123_696


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["rollout.num_gpus=1"], "rollout.num_gpus = 1 with rollout.dtype = 'float32'"),
        (["learner.num_gpus=1"], "learner.num_gpus = 1 with learner.dtype = 'float32'"),
        (["calibrate.split=train"], "calibrate.split = 'train'"),
        (
            [
                "learner.num_gpus=1",
                "learner.dtype=bfloat16",
                "learner.zero_stage=2",
                "learner.offload=optimizer",
            ],
            "learner.offload = 'optimizer' updates the weights on the CPU",
        ),
        (["grpo.groups_per_step=601"], "600 train clips are fewer than grpo.groups_per_step"),
        (["video.cache_max_gb=0.01"], "a node's cache holds the same"),
        (["rollout.max_prompt_length=97"], "96 video tokens"),
        (
            ["reward.terms=[{function='temporal_contrast'}]"],
            "temporal_contrast has 4 more traces a group written",
        ),
        (["rollout.max_response_length=600000"], "the engine refuses to start"),
    ],
)
def test_what_looks_wrong_is_a_warning(manifest: Path, settings: list[str], message: str):
    (warning,) = planned(manifest, *settings).warnings
    assert message in warning


def test_a_chain_without_grpo_is_not_warned_of_its_settings(manifest: Path):
    settings = (
        "grpo.groups_per_step=601",
        "learner.lora={rank=4}",
        "grpo.optim.learning_rate=1e-6",
        "grpo.filter_groups.enable=true",
    )
    assert len(planned(manifest, *settings).warnings) == 3
    labels = "stages=[{name='labels', kind='sft', data='labels'}]"
    given = f"data.manifest={manifest}", f"model={ROOT / 'cluster/demo/base'}", labels
    assert make_plan(read_recipe(DEMO, [*settings, *given]), ["labels"]).warnings == ()


def test_a_setting_at_its_limit_is_no_warning(manifest: Path):
    settings = ("grpo.groups_per_step=600", "rollout.max_prompt_length=98", "rollout.num_gpus=1")
    assert planned(manifest, *settings, "rollout.dtype=bfloat16").warnings == ()


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["plan", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_plan_is_printed_and_written(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "out/plan.json"
    status, out, _ = said(
        capsys, str(DEMO), "--set", f"data.manifest={manifest}", "--json", str(file)
    )
    assert status == 0
    assert "20,480" in out
    written = json.loads(file.read_text())
    assert written["stages"][2]["rollouts"] == 20_480
    assert written["clips"] == {
        "train": 600,
        "with_trace": 32,
        "calibration": 600,
        "evaluation": 300,
    }


def test_a_plan_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    status, _, err = said(capsys, str(DEMO), "--json", str(tmp_path))
    assert status == 2
    assert f"cannot write {tmp_path}" in err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("grpo.num_step=3", "did you mean 'num_steps'"),
        ("seed", "expected key=value"),
        ("reward.terms=[{function='mine.py:score'}]", "mine.py"),
        ("calibrate.split=val", "calibrate.split = 'val'"),
        (f"model={ROOT}", "config.json"),
    ],
)
def test_a_bad_recipe_is_refused_as_by_run(
    capsys: pytest.CaptureFixture[str], setting: str, message: str
):
    status, out, err = said(capsys, str(DEMO), "--set", setting)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err


def test_a_manifest_that_a_stage_cannot_use_is_refused(
    manifest: Path, capsys: pytest.CaptureFixture[str]
):
    write_manifest(manifest, train=6, with_trace=1, test=5)
    status, _, err = said(capsys, str(DEMO), "--set", f"data.manifest={manifest}")
    assert status == 2
    assert "no samples with split='cal'" in err


def test_a_plan_starts_nothing_and_loads_no_engine():
    code = (
        "import sys; from cluster.cli import main; main(['plan', 'recipes/demo.toml']);"
        "print(*[m for m in ('ray', 'torch', 'vllm', 'transformers') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.splitlines()[-1] == ""


def test_its_help_answers_within_a_second():
    """Of a processor: beside other work it takes longer."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "cluster.cli", "plan", "--help"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
