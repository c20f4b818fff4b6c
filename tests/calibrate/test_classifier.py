import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import calibrate.classifier_files as classifier_files
from calibrate import head as linear_head
from calibrate.calibrator import Calibrator
from calibrate.classifier import load_classifier
from calibrate.description import FORMAT
from tests.architecture.product import ROOT
from tests.calibrate.classifiers import (
    make_calibration,
    make_description,
    make_provenance,
    publish,
    write_model,
)
from wire.errors import DataError, DiskFull


class SavedHead:
    def save(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "head.json").write_text("{}")
        (directory / "head.safetensors").write_bytes(b"head")


def test_what_was_published_is_loaded(tmp_path: Path):
    published = publish(tmp_path)
    loaded = load_classifier(tmp_path / "out")
    assert loaded == published
    assert loaded.description == make_description()
    assert loaded.provenance == make_provenance()
    assert loaded.calibration == make_calibration("policy", "verdict")
    assert loaded.verdict_dir == loaded.path / "verdict"
    assert (loaded.adapter_dir, loaded.head_dir, loaded.has_reference) == (None, None, False)


def test_a_lora_verdict_is_an_adapter_beside_one_policy(tmp_path: Path):
    publish(tmp_path)
    adapter = tmp_path / "run/stages/calibrated/adapter"
    loaded = publish(tmp_path, out=tmp_path / "b", verdict_dir=None, adapter_dir=adapter)
    assert loaded.verdict_dir is None
    assert loaded.adapter_dir == loaded.path / "verdict/adapter"
    config = json.loads((loaded.adapter_dir / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "policy"


def test_it_holds_no_path_of_the_machine(tmp_path: Path):
    publish(tmp_path)
    adapter = tmp_path / "run/stages/calibrated/adapter"
    loaded = publish(tmp_path, out=tmp_path / "b", verdict_dir=None, adapter_dir=adapter)
    texts = [file.read_text() for file in loaded.path.rglob("*.json")]
    assert len(texts) > 4
    assert not [text for text in texts if str(tmp_path) in text]


def test_a_head_is_kept_where_the_classifier_reads_it(tmp_path: Path):
    description = make_description(sources=("head",))
    loaded = publish(tmp_path, description=description, verdict_dir=None, head=SavedHead())
    assert loaded.head_dir == loaded.path / "head"


@pytest.mark.parametrize(
    ("sources", "parts"),
    [
        (("policy", "verdict"), {"verdict_dir": None}),
        (("policy",), {}),
        (("policy", "head"), {"verdict_dir": None}),
        (("policy", "verdict"), {"head": SavedHead()}),
    ],
)
def test_it_holds_exactly_what_it_reads(tmp_path: Path, sources, parts):
    with pytest.raises(ValueError, match="for a classifier that reads"):
        publish(tmp_path, description=make_description(sources=sources), **parts)


def test_a_runs_weights_are_linked_and_its_other_files_copied(tmp_path: Path):
    loaded = publish(tmp_path)
    source = tmp_path / "run/stages/grpo/model"
    assert loaded.policy_dir.joinpath("model.safetensors").samefile(source / "model.safetensors")
    assert not loaded.policy_dir.joinpath("config.json").samefile(source / "config.json")


def test_a_fits_weights_are_linked_and_stay_when_its_folder_goes(tmp_path: Path):
    model = write_model(tmp_path / "out.work/model", b"fitted!")
    inode = (model / "model.safetensors").stat().st_ino
    loaded = publish(tmp_path, verdict_dir=model)
    shutil.rmtree(tmp_path / "out.work")
    assert (loaded.path / "verdict/model.safetensors").stat().st_ino == inode
    assert load_classifier(tmp_path / "out") == loaded


def test_a_new_export_of_the_run_leaves_the_linked_weights(tmp_path: Path):
    """As learner/export.py writes: beside the old one, then renamed over it."""
    publish(tmp_path)
    folder = tmp_path / "run/stages/grpo/model"
    write_model(tmp_path / "run/stages/grpo/model.partial", b"newer!")
    shutil.rmtree(folder)
    (tmp_path / "run/stages/grpo/model.partial").rename(folder)
    loaded = load_classifier(tmp_path / "out")
    assert (loaded.policy_dir / "model.safetensors").read_bytes() == b"policy"


def test_copy_shares_nothing_with_the_run(tmp_path: Path):
    loaded = publish(tmp_path, copy=True)
    source = tmp_path / "run/stages/grpo/model"
    assert not loaded.policy_dir.joinpath("model.safetensors").samefile(
        source / "model.safetensors"
    )


def test_a_model_that_no_run_left_is_copied_also_through_links(tmp_path: Path):
    own = write_model(tmp_path / "models/mine")
    (own / "model.safetensors").rename(tmp_path / "blob")
    (own / "model.safetensors").symlink_to(tmp_path / "blob")
    policy = publish(tmp_path, policy_dir=own).policy_dir / "model.safetensors"
    assert not policy.is_symlink()
    (tmp_path / "blob").write_bytes(b"changed in place")
    assert policy.read_bytes() == b"weights"


def test_another_disk_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def other_disk(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    loaded = publish(tmp_path)
    assert (loaded.policy_dir / "model.safetensors").read_bytes() == b"policy"


def test_the_same_parts_give_the_same_version(tmp_path: Path):
    first = publish(tmp_path)
    other = publish(
        tmp_path, out=tmp_path / "b", provenance=make_provenance(created="2027-01-01 00:00 UTC")
    )
    changed = publish(tmp_path, out=tmp_path / "c", description=make_description(name="other"))
    assert first.version == other.version != changed.version


def test_a_directory_with_files_is_not_overwritten(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(DataError, match="exists already; give another directory"):
        publish(tmp_path)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_stage_that_runs_again_replaces_its_classifier(tmp_path: Path):
    publish(tmp_path)
    again = publish(tmp_path, description=make_description(name="again"), replace=True)
    assert again.description.name == "again"


def test_a_full_disk_leaves_nothing_and_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = publish(tmp_path)

    def full(source, target):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(classifier_files.shutil, "copyfile", full)
    with pytest.raises(DiskFull, match="is full"):
        publish(tmp_path, out=tmp_path / "b")
    with pytest.raises(DiskFull, match="is full"):
        publish(tmp_path, replace=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "run"]
    assert load_classifier(before.path) == before


def test_a_folder_without_weights_is_no_policy(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no model in safetensors"):
        publish(tmp_path, policy_dir=tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_classifier_says_what_to_give(tmp_path: Path):
    with pytest.raises(DataError, match=r"no classifier\.json; give the directory that"):
        load_classifier(tmp_path)


def test_a_path_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="there is no folder"):
        load_classifier(tmp_path / "out")


def test_another_format_is_named(tmp_path: Path):
    file = publish(tmp_path).path / "classifier.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": FORMAT + 1}))
    with pytest.raises(DataError, match=rf"the format {FORMAT + 1}, expected {FORMAT}"):
        load_classifier(tmp_path / "out")


def test_an_unknown_key_is_refused(tmp_path: Path):
    file = publish(tmp_path).path / "classifier.json"
    values = json.loads(file.read_text())
    values["description"]["max_frame"] = 3
    file.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"unknown key 'description\.max_frame'"):
        load_classifier(tmp_path / "out")


def test_a_changed_prompt_is_refused(tmp_path: Path):
    file = publish(tmp_path).path / "classifier.json"
    values = json.loads(file.read_text())
    values["description"]["prompts"]["trace"]["text"] = "Guess."
    file.write_text(json.dumps(values))
    with pytest.raises(DataError, match="a prompt was changed"):
        load_classifier(tmp_path / "out")


def test_a_damaged_description_is_refused(tmp_path: Path):
    file = publish(tmp_path).path / "classifier.json"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="cut off or damaged"):
        load_classifier(tmp_path / "out")


def test_a_missing_a_shorter_and_a_changed_file_are_named(tmp_path: Path):
    out = publish(tmp_path, copy=True).path
    (out / "verdict/model.safetensors").write_bytes(b"VERDICT")
    with pytest.raises(DataError, match=r"verdict/model\.safetensors has other bytes"):
        load_classifier(out)
    assert load_classifier(out, check_weights=False)  # its size is right
    (out / "verdict/model.safetensors").write_bytes(b"ver")
    with pytest.raises(DataError, match="has 3 bytes, expected 7"):
        load_classifier(out, check_weights=False)
    (out / "verdict/model.safetensors").unlink()
    with pytest.raises(DataError, match=r"lacks verdict/model\.safetensors"):
        load_classifier(out, check_weights=False)
    (out / "verdict/model.safetensors").write_bytes(b"verdict")
    (out / "calibration.json").write_text((out / "calibration.json").read_text().replace("8", "9"))
    with pytest.raises(DataError, match=r"calibration\.json has other bytes"):
        load_classifier(out, check_weights=False)


def test_a_file_outside_is_refused(tmp_path: Path):
    file = publish(tmp_path).path / "classifier.json"
    values = json.loads(file.read_text())
    values["files"]["../run/x"] = {"bytes": 1, "sha256": "0"}
    file.write_text(json.dumps(values))
    with pytest.raises(DataError, match="outside the directory"):
        load_classifier(tmp_path / "out")


def test_card_and_provenance_may_be_edited(tmp_path: Path):
    out = publish(tmp_path).path
    (out / "README.md").write_text("mine")
    (out / "provenance.json").unlink()
    loaded = load_classifier(out)
    with pytest.raises(DataError, match=r"provenance\.json cannot be read"):
        _ = loaded.provenance


def test_a_run_gives_the_classifier_of_its_last_finished_calibration(tmp_path: Path):
    run = tmp_path / "run"
    first = publish(tmp_path, out=run / "stages/first/classifier")
    second = publish(
        tmp_path,
        out=run / "stages/earlier_in_the_alphabet/classifier",
        description=make_description(name="second"),
    )
    names = ("grpo", "first", "earlier_in_the_alphabet")
    (run / "run.json").write_text(json.dumps({"stages": [{"name": name} for name in names]}))
    with pytest.raises(DataError, match="has no classifier: its calibration has not finished"):
        load_classifier(run)
    (first.path.parent / "done.json").write_text("{}")
    assert load_classifier(run) == first
    (second.path.parent / "done.json").write_text("{}")
    assert load_classifier(run) == second


def test_a_run_that_has_just_begun_says_so(tmp_path: Path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(DataError, match="has finished no stage"):
        load_classifier(tmp_path)


MOVED = """
import json, sys
from pathlib import Path
import numpy as np
from calibrate.classifier import load_classifier

loaded = load_classifier(Path("moved"))
heavy = [name for name in ("torch", "sklearn", "transformers", "ray") if name in sys.modules]
from calibrate.head import Head

head = np.log(Head.load(loaded.head_dir).probabilities(np.array(json.loads(sys.argv[1]))))
logprobs = {"policy": [[-0.1, -2.3]] * len(head), "head": head}
probabilities = loaded.calibration.calibrator.probabilities(logprobs)
hashes = {name: record.sha256 for name, record in loaded.files.items()}
print(json.dumps([loaded.version, hashes, probabilities.tolist(), heavy]))
"""


def test_it_moves_and_its_run_may_go(tmp_path: Path):
    """Another folder, the source gone, a fresh process in another working directory, no network."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(40, 6))
    names = [("abnormal", "normal")[int(row[0] > 0)] for row in features]
    head = linear_head.fit(features, names, ("abnormal", "normal"))
    description = make_description(sources=("policy", "head"))
    published = publish(tmp_path, description=description, verdict_dir=None, head=head)
    hashes = {name: record.sha256 for name, record in published.files.items()}
    rows = {"policy": [[-0.1, -2.3]] * 3, "head": np.log(head.probabilities(features[:3]))}
    expected = published.calibration.calibrator.probabilities(rows).tolist()
    shutil.copytree(published.path, tmp_path / "elsewhere/moved")
    shutil.rmtree(published.path)
    shutil.rmtree(tmp_path / "run")
    printed = subprocess.run(
        [sys.executable, "-c", MOVED, json.dumps(features[:3].tolist())],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(printed) == [published.version, hashes, expected, []]


@pytest.mark.parametrize(
    ("calibration", "says"),
    [
        (make_calibration("policy"), "a calibrator of .*for a classifier of"),
        (
            replace(
                make_calibration("policy", "verdict"),
                calibrator=Calibrator(
                    label_names=("a", "b"), weights={"policy": 1.0, "verdict": 1.0}
                ),
            ),
            "a calibrator of labels other than",
        ),
    ],
)
def test_a_calibration_of_something_else_is_refused(tmp_path: Path, calibration, says):
    with pytest.raises(ValueError, match=says):
        publish(tmp_path, calibration=calibration)
    assert not (tmp_path / "out").exists()
