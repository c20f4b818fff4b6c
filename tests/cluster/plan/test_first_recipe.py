import json
from pathlib import Path

import pytest

from cluster.check.prompt_texts import text_findings
from cluster.cli import main
from cluster.config.recipe import RunConfig, read_recipe
from cluster.inputs.preflight import check_context
from wire.finding import Level
from wire.types import Split

MODEL = Path(__file__).parents[3] / "cluster/demo/base"


def write(path: Path, traces: bool = False, **splits: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "clip.mp4").touch()
    rows = [
        {
            "id": f"{split}{index}",
            "video": "clip.mp4",
            "label": ('say "no"', "yes")[index % 2],
            "split": split,
            "trace": "<think>a</think><answer>yes</answer>" if traces else None,
        }
        for split, count in splits.items()
        for index in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def init(tmp_path: Path, manifest: Path, *words: str) -> RunConfig:
    recipe = tmp_path / "recipes/my.toml"
    assert main(["init", str(manifest), str(recipe), "--model", str(MODEL), *words]) == 0
    return read_recipe(recipe, [])


def test_a_folder_that_holds_no_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, recipe = write(tmp_path / "m.jsonl", train=8, cal=2, test=4), tmp_path / "my.toml"
    assert main(["init", str(manifest), str(recipe), "--model", str(tmp_path)]) != 0
    assert f"--model {tmp_path} is a folder without config.json" in capsys.readouterr().err
    assert not recipe.exists()


def test_the_recipe_names_labels_data_and_model(tmp_path: Path):
    manifest = write(tmp_path / "data/m.jsonl", train=20, cal=4, test=4)
    config = init(tmp_path, manifest, "--num-gpus", "0")
    assert config.label_set.names == ('say "no"', "yes")
    assert config.data.manifest.resolve() == manifest.resolve()
    assert Path(config.model).resolve() == MODEL.resolve()
    assert (config.grpo.groups_per_step, config.grpo.num_steps) == (16, 20)
    assert config.calibrate.split == "cal"


def test_the_prompts_that_it_shows_as_a_comment_are_an_example_that_works(tmp_path: Path):
    init(tmp_path, write(tmp_path / "m.jsonl", train=8, cal=2, test=4), "--num-gpus", "0")
    recipe = tmp_path / "recipes/my.toml"
    text = recipe.read_text()
    recipe.write_text(text.replace("# [prompts]", "[prompts]").replace("# trace =", "trace ="))
    config = read_recipe(recipe, [])
    assert config.prompt_set.user_texts == ("trace",)
    assert [f.level for f in text_findings(config.prompt_set, [])] == [Level.OK]


def test_data_without_traces_or_cal_clips_is_planned_without(tmp_path: Path):
    config = init(tmp_path, write(tmp_path / "m.jsonl", train=1000, test=4), "--num-gpus", "0")
    assert config.chain.names == ("base", "grpo", "calibrated")
    assert config.calibrate.split == Split.TRAIN
    assert (config.grpo.groups_per_step, config.grpo.num_steps) == (64, 156)


def test_lengths_fit_the_models_context(tmp_path: Path):
    config = init(tmp_path, write(tmp_path / "m.jsonl", train=8, cal=2, test=4), "--num-gpus", "0")
    assert config.rollout.max_response_length == 1024
    assert check_context(config) == config.rollout.max_model_len == 4096


def test_traces_are_learnt_from(tmp_path: Path):
    manifest = write(tmp_path / "m.jsonl", traces=True, train=8, cal=2, test=4)
    assert "coldstart" in init(tmp_path, manifest, "--num-gpus", "0").chain.names


@pytest.mark.parametrize(
    ("num_gpus", "workers", "ranks", "kind"),
    [(0, 1, 1, "object_store"), (1, 1, 1, "ipc"), (2, 1, 1, "nccl"), (8, 4, 4, "nccl")],
)
def test_the_machine_decides_the_placement(
    tmp_path: Path, num_gpus: int, workers: int, ranks: int, kind: str
):
    manifest = write(tmp_path / "m.jsonl", train=8, cal=2, test=4)
    config = init(tmp_path, manifest, "--num-gpus", str(num_gpus))
    assert (config.rollout.num_workers, config.learner.num_ranks) == (workers, ranks)
    assert config.transfer.kind == kind
    total = workers * config.rollout.num_gpus + ranks * config.learner.num_gpus
    assert total == num_gpus


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"train": 4}, "no clips with split='test'"),
        ({"train": 1, "test": 1}, "two are needed"),
        ({"training": 4}, "one of the splits train"),
    ],
)
def test_a_manifest_that_cannot_be_trained_on_is_refused(
    tmp_path: Path, splits: dict[str, int], said: str, capsys: pytest.CaptureFixture[str]
):
    manifest = write(tmp_path / "m.jsonl", **splits)
    assert main(["init", str(manifest), str(tmp_path / "my.toml"), "--model", "m"]) == 2
    assert said in capsys.readouterr().err


def test_a_recipe_is_not_replaced_by_accident(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    manifest = write(tmp_path / "m.jsonl", train=4, cal=2, test=4)
    init(tmp_path, manifest)
    words = ["init", str(manifest), str(tmp_path / "recipes/my.toml"), "--model", str(MODEL)]
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


@pytest.mark.parametrize("place", ["file/my.toml", "file/deep/my.toml"])
def test_a_place_that_cannot_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
):
    manifest = write(tmp_path / "m.jsonl", train=4, cal=2, test=4)
    (tmp_path / "file").write_text("x")
    assert main(["init", str(manifest), str(tmp_path / place), "--model", str(MODEL)]) == 2
    assert "give a place that you may write to" in capsys.readouterr().err


def test_a_number_of_gpus_is_none_below_zero(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["init", "m.jsonl", "my.toml", "--model", "m", "--num-gpus", "-1"])
    assert "got '-1', expected a number of GPUs from 0" in capsys.readouterr().err
