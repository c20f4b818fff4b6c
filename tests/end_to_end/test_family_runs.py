"""All stages of Qwen2-VL and Qwen3-VL on the real engines, from untrained models: that they finish,
learn, and stay in parity, not how well they do."""

import itertools
from pathlib import Path

import pytest

from cluster.demo.clips import make_demo_data
from tests.end_to_end.runs import LABELS, metrics, run, summary, write_recipe
from tests.tiny_models import write_tiny_model
from video.families import family_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(580)]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return solution_str.count("e") / 8  # what an untrained model can get better at
"""


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen3_vl"])
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> Path:
    """The directory of a small run; Qwen3-VL's model is named as one of the hub's, in its cache."""
    import ray

    folder, model, env = tmp_path_factory.mktemp("run"), Path("model"), {}
    if request.param == "qwen3_vl":
        model, repo = Path("demo-org/tiny-vl"), folder / "hub/models--demo-org--tiny-vl"
        write_tiny_model(repo / "snapshots" / COMMIT, request.param)
        (repo / "refs").mkdir()
        (repo / "refs/main").write_text(COMMIT)
        env = {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
        (folder / "model").symlink_to(repo / "snapshots" / COMMIT)
    else:
        write_tiny_model(folder / "model", request.param)
    (folder / "mine.py").write_text(REWARD)
    manifest = make_demo_data(folder / "data", train=16, traces=8, val=1, cal=6, test=6)
    recipe = write_recipe(folder, model, manifest, LABELS)
    settings = [
        f"reward.terms=[{{function='{folder / 'mine.py'}:compute_score'}}]",
        "rollout.max_prompt_length=512",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    address = ray.get_runtime_context().gcs_address
    done = run(recipe, folder / "out", *words, address=address, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "out"


def test_every_stage_finishes(finished: Path):
    names = [stage["name"] for stage in summary(finished)["stages"]]
    assert names == ["base", "coldstart", "grpo", "calibrated"]
    assert (finished / "stages/calibrated/head").is_dir()


def test_every_step_is_on_policy_and_in_parity(finished: Path):
    steps = metrics(finished, "grpo")
    assert [row["step"] for row in steps] == [1, 2, 3]
    for row in steps:
        assert row["parity/probe_max_logprob_diff"] < 1e-5
        assert row["parity/max_logprob_diff"] < 1e-4
        assert row["rollout_is/mean"] == pytest.approx(1.0, abs=1e-4)
        assert row["reward/failed_frac"] == 0


def test_each_stage_moves_the_language_model_and_not_the_frozen_tower(finished: Path):
    from safetensors.torch import load_file

    stages = [f"stages/{name}/model" for name in ("coldstart", "grpo", "calibrated")]
    folders = [finished.parent / "model", *(finished / stage for stage in stages)]
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    for before, after in itertools.pairwise(weights):
        assert before.keys() == after.keys()
        changed = {name for name in before if not before[name].equal(after[name])}
        assert any(".layers." in name for name in changed)  # Qwen2-VL is saved under older names
        assert not [name for name in changed if "visual" in name]


def test_an_exported_model_opens_in_plain_transformers(finished: Path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = finished / "stages/grpo/model"
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    family = family_of(folder)
    assert type(model).__name__ == family.model_class
    assert not report["missing_keys"]
    assert type(AutoProcessor.from_pretrained(folder)).__name__ == family.processor_class
