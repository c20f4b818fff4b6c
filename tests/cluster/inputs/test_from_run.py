"""Runs that start from another run's stage: what can be started from, what is recorded, what is
warned of. Run directories, manifests and clips are files; nothing is trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.check.leaks import source_findings
from cluster.cli import main
from cluster.config.recipe import RunConfig
from cluster.inputs.from_run import (
    check_source,
    record_source,
    same_clips,
    source_of,
    start_model,
    start_warnings,
)
from cluster.run_dir import RunDir
from cluster.run_files import describe_source, read_started_from
from rollout.manifest import read_manifest
from tests.cluster.session_fakes import NAMES, make_config
from wire.errors import ConfigError
from wire.finding import Area, Finding, Level
from wire.types import Sample, Split

SPLITS = {"train": 4, "val": 2, "cal": 2, "test": 3}


def write_manifest(folder: Path, name: str, shown: dict[str, list[str]]) -> Path:
    """A manifest of these clips by split; the file of a clip holds its name."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for split, clips in shown.items():
        for number, clip in enumerate(clips):
            file = folder / name / f"{split}-{number}.mp4"
            file.write_text(clip)
            row = {"id": f"{split}-{number}", "video": file.name, "split": split}
            rows.append({**row, "label": NAMES[number % 5], "trace": "t" if number % 2 else None})
    path = folder / name / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def clips(**more: list[str]) -> dict[str, list[str]]:
    own = {split: [f"{split} {i}" for i in range(count)] for split, count in SPLITS.items()}
    return {split: [*own[split], *more.get(split, [])] for split in own}


def config_of(manifest: Path, **changes: Any) -> RunConfig:
    return make_config(data={"manifest": str(manifest)}, **changes)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A run whose cold start and GRPO have left models, its calibration a verdict."""
    manifest = write_manifest(tmp_path, "other data", clips())
    run_dir = RunDir.open(tmp_path / "a", config_of(manifest), resume=False, overwrite=False)
    run_dir.archive.mkdir()
    for stage, length in (("base", None), ("coldstart", 3), ("grpo", 3), ("calibrated", 2)):
        if stage != "base":
            run_dir.model(stage).mkdir(parents=True)
            (run_dir.model(stage) / "config.json").write_text("{}")
            (run_dir.model(stage) / "model.safetensors").write_text(f"weights of {stage}")
        run_dir.finish(stage, {"seconds": 1.0} | ({"length": length} if length else {}))
    run_dir.close()
    return run_dir.path


# --- what can be started from


def test_a_run_is_started_from_its_last_policy_or_the_stage_that_is_named(other: Path):
    assert start_model(str(other)) == other / "stages/grpo/model"
    assert start_model(f"{other}:coldstart") == other / "stages/coldstart/model"


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        start_model(text)
    return str(refused.value)


def test_what_cannot_be_started_from_is_refused_with_the_stages_that_can(other: Path):
    can = f"{other} can be started from at: coldstart, grpo"
    assert refusal(f"{other}:grop").endswith(f"has no stage 'grop'; {can}")
    assert f"stage calibrated leaves no policy; {can}" in refusal(f"{other}:calibrated")
    shutil.rmtree(other / "stages/grpo/model")
    assert "the model of stage grpo is gone" in refusal(f"{other}:grpo")
    assert refusal(f"{other}:grpo").endswith("can be started from at: coldstart")
    (other / "stages/grpo/done.json").unlink()
    assert "stage grpo has not finished" in refusal(f"{other}:grpo")
    (other / "stages/coldstart/done.json").write_text('{"seconds": 1.0, "length": 1}')
    assert "coldstart is being made longer and has not finished" in refusal(f"{other}:coldstart")
    assert refusal(str(other)).endswith(
        f"no stage of {other} can be started from yet; let one finish"
    )
    assert "there is no run in" in refusal("no/where")
    assert "there is no run in" in refusal("no/where:grpo")


def test_a_model_that_no_run_left_has_no_source(other: Path, tmp_path: Path):
    source = source_of(other / "stages/grpo/model")
    assert source is not None
    assert (source.run, source.stage, source.length) == (str(other), "grpo", 3)
    assert source.version_step == 4, "that of its last step, in that run"
    (tmp_path / "stages/grpo/model").mkdir(parents=True)
    assert source_of(tmp_path / "stages/grpo/model") is None
    assert source_of(Path("Qwen/Qwen2.5-VL-7B-Instruct")) is None


# --- what is recorded


def test_where_the_model_came_from_is_recorded_once_and_its_weights_are_held_to_it(
    other: Path, tmp_path: Path
):
    config = make_config(model=str(other / "stages/grpo/model"))
    (tmp_path / "b").mkdir()
    check_source(config, tmp_path / "b")
    record_source(config, tmp_path / "b")
    record = read_started_from(tmp_path / "b")
    assert record is not None
    assert {key: record[key] for key in ("run", "stage", "version_step", "length")} == {
        "run": str(other),
        "stage": "grpo",
        "version_step": 4,
        "length": 3,
    }
    assert len(record["weights_sha256"]) == 64
    assert describe_source(record).startswith(f"{other}:grpo after 3 (weights ")
    check_source(config, tmp_path / "b")
    (other / "stages/grpo/model/model.safetensors").write_text("weights of more steps")
    with pytest.raises(ConfigError, match="has other weights than when this run started from it"):
        check_source(config, tmp_path / "b")
    record_source(config, tmp_path / "b")
    assert read_started_from(tmp_path / "b") == record
    record_source(make_config(), tmp_path)
    assert read_started_from(tmp_path) is None
    assert describe_source(None) == ""


def test_a_resume_that_forgets_where_the_run_started_from_is_told(other: Path, tmp_path: Path):
    config = make_config(model=str(other / "stages/grpo/model"))
    run_dir = RunDir.open(tmp_path / "b", config, resume=False, overwrite=False)
    run_dir.archive.mkdir()
    record_source(config, run_dir.path)
    run_dir.close()
    with pytest.raises(ConfigError, match=rf"give --from {other}:grpo again"):
        RunDir.open(run_dir.path, make_config(), resume=True, overwrite=False)
    RunDir.open(run_dir.path, config, resume=True, overwrite=False).close()


def test_the_run_that_is_started_from_is_not_overwritten(other: Path):
    config = make_config(model=str(other / "stages/grpo/model"))
    with pytest.raises(ConfigError, match="--overwrite would delete the model to start from"):
        RunDir.open(other, config, resume=False, overwrite=True)
    assert (other / "stages/grpo/model/model.safetensors").exists()


# --- what is warned of


def warnings_for(other: Path, manifest: Path, stage: str = "grpo", **changes: Any) -> list[str]:
    model = str(other / f"stages/{stage}/model")
    config = config_of(manifest, model=model, **changes)
    return start_warnings(config, read_manifest(manifest, config.label_set, None))


def test_a_run_on_new_clips_with_the_same_settings_is_not_warned(other: Path, tmp_path: Path):
    new = {split: [f"new {split} {i}" for i in range(3)] for split in SPLITS}
    assert warnings_for(other, write_manifest(tmp_path, "new data", new)) == []
    again = write_manifest(tmp_path, "same data elsewhere", clips())
    assert warnings_for(other, again) == [], "the same splits: what was held out still is"


def test_trained_clips_in_held_out_splits_are_counted_by_content(other: Path, tmp_path: Path):
    leaky = clips(test=["train 0", "train 1"], cal=["train 2"], val=["test 0"])
    manifest = write_manifest(tmp_path, "leaky data", leaky)
    start = f"the model comes from {other}:grpo, which was trained on"
    told = [line.partition(": figures")[0] for line in warnings_for(other, manifest)]
    assert told == [f"{start} 1 of the cal clips here", f"{start} 2 of the test clips here"]
    # the cold start learned from the clips with a trace alone: train 1 and train 3
    (line,) = warnings_for(other, manifest, "coldstart")
    assert "coldstart, which was trained on 1 of the test clips here" in line


def test_what_the_run_before_that_one_trained_on_counts_as_well(other: Path, tmp_path: Path):
    second = write_manifest(tmp_path, "second data", {"train": ["b 0"], "test": ["b 1"]})
    run = RunDir.open(
        tmp_path / "b",
        config_of(second, model=str(other / "stages/grpo/model")),
        resume=False,
        overwrite=False,
    )
    run.close()
    third = write_manifest(tmp_path, "third data", {"train": ["c"], "test": ["train 3", "b 0"]})
    (line,) = warnings_for(run.path, third)
    assert "was trained on 2 of the test clips here" in line


def test_other_labels_and_pixels_are_named(other: Path, tmp_path: Path):
    manifest = write_manifest(tmp_path, "new data", {"train": ["n"], "test": ["m"]})
    labels = [{"name": name, "definition": "now with one"} for name in NAMES]
    (line,) = warnings_for(
        other, manifest, labels=labels, video={"max_frames": 3, "cache_dir": str(tmp_path)}
    )
    assert line.endswith(
        f"{other}:grpo, which had another labels, video.max_frames: it learned with the other"
    )


def test_a_model_that_read_narratives_is_to_be_shown_those_of_the_same_tokenizer(tmp_path: Path):
    tokens = {"name": "vst", "kind": "semantic_tokens"}
    told = {"name": "told", "kind": "sft", "data": "labels", "input": "tokens"}
    old = write_manifest(tmp_path, "old data", {"train": ["o"], "test": ["p"]})
    config = config_of(old, stages=[tokens, told])
    RunDir.open(tmp_path / "a", config, resume=False, overwrite=False).close()
    folder = tmp_path / "a/stages/vst/tokenizer"
    manifest = write_manifest(tmp_path, "new data", {"train": ["n"], "test": ["m"]})

    def warned(*stages: dict[str, Any]) -> list[str]:
        return warnings_for(tmp_path / "a", manifest, "told", stages=list(stages))

    for stages in ([told | {"input": "video"}], [tokens, told]):
        (line,) = warned(*stages)
        assert f"learned from narratives of the tokenizer {folder}: videos, and" in line
    assert warned(tokens | {"tokenizer": str(folder)}, told) == []


def test_a_source_whose_data_or_recipe_is_gone_is_said_to_be_unknown(other: Path, tmp_path: Path):
    manifest = write_manifest(tmp_path, "new data", {"train": ["n"], "test": ["m"]})
    shutil.rmtree(tmp_path / "other data")
    (line,) = warnings_for(other, manifest)
    assert "which clips it was trained on cannot be read" in line
    (other / "run.json").write_text("{")
    (line,) = warnings_for(other, manifest)
    assert "grpo, whose recipe cannot be read, so nothing can be compared" in line


def sample(video: str, number: int = 0) -> Sample:
    return Sample(id=f"s{number}", video=video, label=NAMES[0], split=Split.TEST)


def test_windows_of_one_file_are_the_same_clip_where_they_overlap(tmp_path: Path):
    file = tmp_path / "long.mp4"
    file.write_text("long")
    trained = [sample(f"{file}#t=0,10")]
    others = [sample(f"{file}#t=5,12"), sample(f"{file}#t=10,20"), sample(str(file))]
    assert same_clips(trained, others) == [others[0], others[2]]
    assert same_clips([sample(str(tmp_path / "gone.mp4"))], [sample(str(tmp_path / "gone.mp4"))])
    assert same_clips([sample(str(tmp_path / "gone.mp4"))], others) == []


# --- the command line


def test_the_command_refuses_two_starts_and_names_the_stages(
    other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = tmp_path / "recipe.toml"
    labels = "".join(f'[[labels]]\nname = "{name}"\n' for name in NAMES)
    recipe.write_text(f'model = "base-model"\n{labels}[data]\nmanifest = "m.jsonl"\n')
    words = ["run", str(recipe), "--run-dir", str(tmp_path / "b"), "--from", f"{other}:verdict"]
    assert main(words) == 2
    assert "can be started from at: coldstart, grpo" in capsys.readouterr().err
    words = ["run", str(recipe), "--from", str(other), "--set", "model=x"]
    assert main(words) == 2
    assert "both say what to start from" in capsys.readouterr().err


def test_check_finds_what_the_start_would_warn_of(other: Path, tmp_path: Path):
    def findings(shown: dict[str, list[str]], name: str) -> list[Finding]:
        manifest = write_manifest(tmp_path, name, shown)
        config = config_of(manifest, model=str(other / "stages/grpo/model"))
        return source_findings(config, read_manifest(manifest, config.label_set, None))

    (fine,) = findings(clips(), "same splits")
    assert (fine.level, fine.area) == (Level.OK, Area.LEAKS)
    (leak,) = findings(clips(test=["train 0"]), "leaky")
    assert leak.level is Level.WARNING
    assert "was trained on 1 of the test clips here" in leak.what
    assert source_findings(make_config(), []) == []
