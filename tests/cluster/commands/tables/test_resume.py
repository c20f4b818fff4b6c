"""What ``--resume`` says it takes up, of a run whose files are real."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.commands.tables.resume import summarise_resume
from cluster.config.kinds.grpo import GrpoStage
from cluster.resume import archived_groups
from cluster.resume.archived_groups import reusable_groups
from cluster.resume.loop_state import LOOP_FILE, Ancestor, LoopState
from cluster.run_dir import RunDir
from learner.checkpoint import tag_of
from tests.cluster.session_fakes import FIRST_STEP, make_config, make_run_dir
from tests.groups import make_group
from wire.archive.archive import Archive
from wire.types import PolicyVersion, TraceGroup
from wire.whole_file import write_json


def write_checkpoint(folder: Path, state: LoopState) -> None:
    """Whole by names and sizes."""
    about = {"num_ranks": 1, "zero_stage": 0, "dtype": "float32", "format": 2, "files": {}}
    write_json(folder / tag_of(state.step) / "manifest.json", about)
    (folder / tag_of(state.step) / LOOP_FILE).write_text(state.to_json())


WORK = ("base", "coldstart", "grpo", "calibrated")


def group(group_id: str, step: int) -> TraceGroup:
    return make_group(group_id=group_id, policy_version=PolicyVersion(attempt=0, step=step))


def test_resume_says_attempt_results_place_and_changes(tmp_path: Path):
    run_dir = make_run_dir(tmp_path, make_config(), "base", "coldstart")
    with Archive(run_dir.archive, 0) as archive:
        archive.append(group("grpo/00000001", 1))
        archive.compact(1)
        archive.append(group("grpo/00000004", 3))  # with the weights of step 2: for step 3
        archive.append(group("grpo/00000006", 4))  # with those of step 3, which are lost
        archive.append(group("base/evaluation/x", 3))
    state = LoopState(step=2, next_index=4, ancestors=(Ancestor(attempt=0, until=3),))
    write_checkpoint(run_dir.checkpoints("grpo"), state)
    run_dir.close()
    changed = make_config(grpo={"num_steps": 3, "groups_per_step": 2, "save_every": 7})
    run_dir = RunDir.open(run_dir.path, changed, resume=True, overwrite=False)
    summary = summarise_resume(changed, run_dir, WORK)
    run_dir.close()
    assert [re.sub(r"\d+ s old", "N s old", line) for line in summary.lines] == [
        f"resuming {run_dir.path}: attempt 1",
        "finished: base 0.500, coldstart 0.500",
        "grpo: at step 2 of 3, from a checkpoint N s old; 1 archived groups are taken up; "
        "1 are kept, and written anew: lost weights wrote them",
        "then: calibrated",
        "changed: grpo.save_every = 7 (was 1), from the next checkpoint on",
    ]


def test_a_stage_without_a_checkpoint_starts_anew(tmp_path: Path):
    run_dir = make_run_dir(tmp_path, make_config(), "base")
    lines = summarise_resume(make_config(), run_dir, ("base", "coldstart")).lines
    assert lines[-1] == "coldstart: from its start, there is no checkpoint"
    write_checkpoint(run_dir.checkpoints("coldstart"), LoopState(step=7))
    lines = summarise_resume(make_config(), run_dir, ("base", "coldstart")).lines
    assert lines[-1].startswith("coldstart: from the checkpoint after update 7, ")
    run_dir.close()


def test_training_takes_what_was_found_for_the_summary_without_another_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = make_config()
    run_dir = make_run_dir(tmp_path, config, "base", "coldstart")
    with Archive(run_dir.archive, 0) as archive:
        archive.append(group("grpo/00000004", 3))
    state = LoopState(step=2, next_index=4, ancestors=(Ancestor(attempt=0, until=3),))
    write_checkpoint(run_dir.checkpoints("grpo"), state)
    known = summarise_resume(config, run_dir, WORK).archived
    assert known is not None
    assert list(known.usable) == ["grpo/00000004"]
    grpo = config.chain["grpo"]
    assert isinstance(grpo, GrpoStage)
    with monkeypatch.context() as patch:
        patch.setattr(archived_groups, "find_reusable_groups", None)
        again = reusable_groups(config, run_dir, grpo, FIRST_STEP, state, 1, known)
    assert again is known
    other = replace(state, step=1, next_index=2)  # its checkpoint was damaged: the one before
    assert reusable_groups(config, run_dir, grpo, FIRST_STEP, other, 1, known).reuse.state == other
    more = grpo.model_copy(update={"name": "grpo_more"})
    assert reusable_groups(config, run_dir, more, FIRST_STEP, state, 1, known).usable == {}
    run_dir.close()


def test_a_run_whose_next_stage_is_another_finds_no_groups(tmp_path: Path):
    run_dir = make_run_dir(tmp_path, make_config(), "base")
    assert summarise_resume(make_config(), run_dir, WORK).archived is None
    run_dir.close()
