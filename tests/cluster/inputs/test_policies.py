"""Notes of which versions name the weights of which model."""

from pathlib import Path

from cluster.inputs.from_run import weights_hash
from cluster.inputs.policies import POLICIES_FILE, note_policy, read_policies, versions_of
from wire.types import PolicyVersion


def model(folder: Path, weights: str) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_text(weights)
    return folder


def test_versions_of_all_attempts_that_name_the_weights_of_a_model_are_known(tmp_path: Path):
    one, other = model(tmp_path / "one", "1"), model(tmp_path / "other", "2")
    archive = tmp_path / "archive"
    for attempt in (0, 0, 1):
        note_policy(archive, PolicyVersion(attempt=attempt, step=8), "grpo", one)
    note_policy(archive, PolicyVersion(attempt=1, step=9), "grpo", other)
    assert len((archive / POLICIES_FILE).read_text().splitlines()) == 3, "each once"
    assert {str(v) for v in versions_of(archive, weights_hash(one))} == {"0.8", "1.8"}
    assert versions_of(archive, "another") == frozenset()


def test_of_a_version_whose_stage_was_made_longer_the_newest_weights_count(tmp_path: Path):
    archive, version = tmp_path / "archive", PolicyVersion(attempt=0, step=8)
    for weights in ("1", "2"):
        note_policy(archive, version, "grpo", model(tmp_path / weights, weights))
    assert versions_of(archive, weights_hash(tmp_path / "1")) == frozenset()
    assert versions_of(archive, weights_hash(tmp_path / "2")) == {version}


def test_an_archive_without_notes_and_a_line_that_was_cut_are_read(tmp_path: Path):
    assert list(read_policies(tmp_path)) == []
    note_policy(tmp_path, PolicyVersion(attempt=0, step=1), "base", model(tmp_path / "m", "1"))
    with (tmp_path / POLICIES_FILE).open("a") as file:
        file.write('{"version": "0.2", "st')
    assert [note.version for note in read_policies(tmp_path)] == ["0.1"]


def test_a_note_after_a_line_that_was_cut_is_kept(tmp_path: Path):
    (tmp_path / POLICIES_FILE).write_text('{"version": "0.2", "st')
    for step in (1, 2):
        note_policy(
            tmp_path, PolicyVersion(attempt=0, step=step), "a", model(tmp_path / f"{step}", "1")
        )
    assert [note.version for note in read_policies(tmp_path)] == ["0.1", "0.2"]
