"""What ``--resume`` says it takes up, of a run whose files are real."""

import re
from pathlib import Path

from cluster.resume import resume_lines
from cluster.run_dir import RunDir, write_json
from tests.cluster.session_fakes import make_config, make_run_dir
from wire.archive import Archive
from wire.types import Failure, FailureKind, PolicyVersion, Purpose, Sample, Split, TraceGroup

WORK = ("base", "coldstart", "grpo", "calibrated")


def group(group_id: str, step: int) -> TraceGroup:
    failure = Failure(kind=FailureKind.DECODE, culprit="a.mp4", reason="cut")
    return TraceGroup(
        group_id=group_id,
        sample=Sample(id="a", video="a.mp4", label="x", split=Split.TRAIN),
        purpose=Purpose.TRAIN,
        policy_version=PolicyVersion(attempt=0, step=step),
        prompt=None,
        traces=(),
        failures=(failure,),
    )


def test_resume_says_attempt_results_place_and_changes(tmp_path: Path):
    run_dir = make_run_dir(tmp_path, make_config(), "base", "coldstart")
    with Archive(run_dir.archive, 0) as archive:
        archive.append(group("grpo/00000001", 1))
        archive.compact(1)
        archive.append(group("grpo/00000002", 3))  # with the weights of step 2: after it
        archive.append(group("base/evaluation/x", 3))
    write_json(
        run_dir.checkpoints("grpo") / "step-000002/manifest.json",
        {"num_ranks": 1, "zero_stage": 0, "dtype": "float32", "files": {}},
    )
    run_dir.close()
    changed = make_config(grpo={"num_steps": 3, "groups_per_step": 2, "save_every": 7})
    run_dir = RunDir.open(run_dir.path, changed, resume=True, overwrite=False)
    lines = list(resume_lines(changed, run_dir, WORK))
    run_dir.close()
    assert [re.sub(r"\d+ s old", "N s old", line) for line in lines] == [
        f"resuming {run_dir.path}: attempt 1",
        "finished: base 0.500, coldstart 0.500",
        "grpo: at step 2 of 3, from a checkpoint N s old; 1 groups archived after it are kept, "
        "and written anew",
        "then: calibrated",
        "changed settings: grpo.save_every = 7 (was 1)",
    ]


def test_a_stage_without_a_checkpoint_starts_anew(tmp_path: Path):
    run_dir = make_run_dir(tmp_path, make_config(), "base")
    lines = list(resume_lines(make_config(), run_dir, ("base", "coldstart")))
    assert lines[-1] == "coldstart: from its start, there is no checkpoint"
    write_json(
        run_dir.checkpoints("coldstart") / "step-000001/manifest.json",
        {"num_ranks": 1, "zero_stage": 0, "dtype": "float32", "files": {}},
    )
    lines = list(resume_lines(make_config(), run_dir, ("base", "coldstart")))
    assert lines[-1].startswith("coldstart: from the checkpoint after epoch 1, ")
    run_dir.close()
