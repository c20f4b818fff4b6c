import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.driver.progress import Progress, progress_bar
from cluster.run_dir import RunDir
from cluster.run_files import SILENT_S, is_locked
from cluster.status.heartbeat import Heartbeat, State, heartbeat, read_heartbeat, status_file
from cluster.status.run_status import find_runs, judge, read_status
from tests.cluster.session_fakes import make_config, make_run_dir
from wire.errors import ConfigError, DiskFull
from wire.whole_file import replace_json, write_json

NOW = 1_000_000.0
HEARTBEAT = Heartbeat(
    state=State.RUNNING,
    pid=7,
    host="here",
    started=NOW - 100,
    last_beat=NOW - 1,
    attempt=0,
    resume="deepintuit run my.toml --resume",
    folder="/home/me",
    work=("base", "coldstart", "grpo", "calibrated"),
)


def state_of(beat: Heartbeat | None, locked: bool | None, *, whole: bool = False) -> str:
    state, why = judge(beat, locked=locked, here="here", now=NOW, whole=whole)
    return f"{state.value}: {why}" if why else state.value


def test_the_lock_is_the_truth_about_this_machine():
    assert state_of(HEARTBEAT, True) == "running"
    assert state_of(HEARTBEAT, False) == "stopped: its process 7 ended without a word (killed?)"
    assert state_of(replace(HEARTBEAT, state=State.FINISHED), True) == "running", (
        "a new one has begun"
    )


def test_the_age_of_the_last_sign_is_the_truth_about_another_machine():
    there = replace(HEARTBEAT, host="there")
    assert state_of(there, False) == "running"
    assert state_of(there, None) == "running"
    silent = replace(there, last_beat=NOW - SILENT_S - 1)
    assert state_of(silent, False).startswith("stopped: its process 7 on there ended without")


def test_a_process_that_holds_the_lock_and_gives_no_sign_may_hang():
    silent = replace(HEARTBEAT, last_beat=NOW - SILENT_S - 1)
    assert state_of(silent, True) == "running: no sign of life for 61 s: it may hang"


def test_what_a_process_said_last_is_believed_once_it_has_ended():
    assert (
        state_of(replace(HEARTBEAT, state=State.FAILED, reason="no room"), False)
        == "failed: no room"
    )
    assert state_of(None, False) == "stopped"
    assert state_of(None, False, whole=True) == "finished"


def open_run(path: Path) -> RunDir:
    run_dir = make_run_dir(path, make_config())
    run_dir.archive.mkdir()
    return run_dir


def at(run_dir: RunDir) -> State:
    beat = read_heartbeat(run_dir.path)
    assert beat is not None
    return beat.state


def test_signs_follow_the_work_and_its_end(tmp_path: Path):
    run_dir = open_run(tmp_path)
    with heartbeat(run_dir, ("base",), "again --resume"):
        assert at(run_dir) is State.RUNNING
        with progress_bar("grpo", 10) as bar:
            bar.advance(3)
    beat = read_heartbeat(run_dir.path)
    assert beat is not None
    assert beat.state is State.FINISHED
    assert beat.progress is not None
    assert (beat.progress.title, beat.progress.done, beat.progress.total) == ("grpo", 3, 10)
    with pytest.raises(KeyboardInterrupt), heartbeat(run_dir, ("base",), "again --resume"):
        raise KeyboardInterrupt
    assert at(run_dir) is State.STOPPED
    bad = ExceptionGroup("loops", [ValueError("the reward is broken")])
    with pytest.raises(ExceptionGroup), heartbeat(run_dir, ("base",), "again --resume"):
        raise bad
    status = read_status(run_dir.path.parent / "run")
    run_dir.close()
    status = read_status(run_dir.path)
    assert (status.state, status.why) == (State.FAILED, "the reward is broken")
    assert status.resume == "again --resume"


def test_a_run_that_a_full_disk_ended_says_so(tmp_path: Path):
    run_dir = open_run(tmp_path)
    full = OSError(28, "No space left on device")
    with pytest.raises(DiskFull, match="free some"), heartbeat(run_dir, ("base",), "again"):
        raise ExceptionGroup("loops", [RuntimeError("wrapped"), full])
    run_dir.close()
    assert "is full" in read_status(run_dir.path).why


def test_status_has_stages_figures_checkpoint_and_quarantine(tmp_path: Path):
    run_dir = open_run(tmp_path)
    run_dir.finish("base", {"seconds": 3.0, "evaluation": {"accuracy": 0.25}})
    lines = [
        {"stage": "grpo", "step": 4, "attempt": 0, "time": NOW, "reward/mean": 1.5},
        {"stage": "eval", "step": 4, "attempt": 0, "time": NOW, "grpo/accuracy": 0.5},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "gr'
    (run_dir.path / "metrics.jsonl").write_text(text)
    (run_dir.path / "quarantine.jsonl").write_text("{}\n{}\n")
    write_json(run_dir.checkpoints("grpo") / "step-000003/manifest.json", {})
    now = time.time()
    progress = Progress(title="grpo", done=4, total=10, rate=0.5)
    mine = replace(
        HEARTBEAT, pid=os.getpid(), host=socket.gethostname(), last_beat=now, progress=progress
    )
    replace_json(status_file(run_dir.path), mine.to_plain())
    status = read_status(run_dir.path)
    assert status.state is State.RUNNING
    assert status.stage == "coldstart"
    assert [(one.name, one.accuracy) for one in status.finished] == [("base", 0.25)]
    assert (status.step_stage, status.step, status.figures) == ("grpo", 4, {"reward/mean": 1.5})
    assert status.num_quarantined == 2
    assert status.checkpoint is not None
    assert (status.checkpoint.stage, status.checkpoint.tag) == ("grpo", "step-000003")
    assert status.progress is not None
    assert status.progress.left_s == 12.0
    run_dir.close()
    assert read_status(run_dir.path).state is State.STOPPED, "the lock is free: it was killed"


def test_status_says_what_the_guards_warned_of_at_the_end_of_each_training(tmp_path: Path):
    run_dir = open_run(tmp_path)
    bad = {"guard/length_ratio": 3.0, "guard/length_drift/flagged": 1.0}
    good = {"guard/length_ratio": 1.0, "guard/length_drift/flagged": 0.0}
    lines = [
        ("grpo", 4, bad),
        ("grpo", 5, good),
        ("arm", 1, good),
        ("arm", 2, bad),
        ("head", 1, {}),
    ]
    text = "".join(
        json.dumps({"stage": stage, "step": step, "attempt": 0, "time": NOW, **values}) + "\n"
        for stage, step, values in lines
    )
    (run_dir.path / "metrics.jsonl").write_text(text)
    assert read_status(run_dir.path).guards == (
        "arm step 2: Length drift: traces are 3.00 times as long as in the first steps",
    )
    run_dir.close()


def test_status_has_the_last_validation_beside_the_last_step(tmp_path: Path):
    run_dir = open_run(tmp_path)
    flagged = {"guard/length_ratio": 3.0, "guard/length_drift/flagged": 1.0}
    lines = [("grpo", 5, flagged), ("grpo", 4, {"val/accuracy": 0.5, "val/nll": None})]
    text = "".join(
        json.dumps({"stage": stage, "step": step, "attempt": 0, "time": NOW, **values}) + "\n"
        for stage, step, values in lines
    )
    (run_dir.path / "metrics.jsonl").write_text(text)
    about = {"metric": "val/accuracy", "best": 0.7, "best_step": 3, "left_step": 3}
    run_dir.finish("coldstart", {"seconds": 1.0, "validation": about})
    status = read_status(run_dir.path)
    assert (status.step, status.figures) == (5, flagged)
    assert len(status.guards) == 1, "a validation's line hides no warning"
    last = status.validation
    assert last is not None
    assert (last.stage, last.step, last.figures) == (
        *("grpo", 4, {"val/accuracy": 0.5, "val/nll": None}),
    )
    assert [one.outcome for one in status.finished] == [
        "best val/accuracy 0.7 at step 3; left the weights of step 3 (the best)"
    ]
    run_dir.close()


def test_reading_a_status_changes_nothing_and_works_on_a_read_only_disk(tmp_path: Path):
    run_dir = open_run(tmp_path)
    with heartbeat(run_dir, ("base",), "again"):
        pass
    run_dir.close()
    before = {path: path.stat().st_mtime_ns for path in run_dir.path.rglob("*")}
    read_status(run_dir.path)
    assert {path: path.stat().st_mtime_ns for path in run_dir.path.rglob("*")} == before


def test_commands_print_tables_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_dir = open_run(tmp_path)
    run_dir.finish("base", {"seconds": 3.0, "evaluation": {"accuracy": 0.25}})
    with pytest.raises(ValueError, match="odd"), heartbeat(run_dir, ("base", "grpo"), "x --resume"):
        raise ValueError("odd [data]")
    run_dir.close()
    assert main(["status", str(run_dir.path)]) == 0
    said = capsys.readouterr().out
    assert "failed at grpo: odd [data]" in said
    assert "resume with: x --resume" in said
    assert "base 0.250" in said
    assert main(["status", str(run_dir.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "failed"
    assert main(["ls", str(tmp_path)]) == 0
    assert "failed" in capsys.readouterr().out
    assert main(["ls", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == "run"
    assert main(["status", str(tmp_path)]) == 2
    assert "no run in" in capsys.readouterr().err


@pytest.mark.parametrize("written", ["NaN", "null"])
def test_a_figure_that_is_not_finite_is_said_and_null(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], written: str
):
    run_dir = open_run(tmp_path)
    start = '{"stage": "grpo", "step": 3, "attempt": 0, "time": 1.0'
    run_dir.metrics.write_text(f'{start}, "reward/mean": {written}, "kl": 0.5}}\n')
    run_dir.close()
    assert main(["status", str(run_dir.path), "--once"]) == 0
    assert re.search(r"reward +not finite", capsys.readouterr().out)
    assert main(["status", str(run_dir.path), "--json"]) == 0
    text = capsys.readouterr().out
    assert "NaN" not in text
    assert json.loads(text)["figures"] == {"reward/mean": None, "kl": 0.5}


def test_runs_are_found_below_folders_and_not_inside_runs(tmp_path: Path):
    for name in ("a", "study/seed-1", "study/seed-2", "a/cache/x"):
        write_json(tmp_path / name / "run.json", {})
    (tmp_path / "models").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in find_runs(tmp_path)]
    assert found == ["a", "study/seed-1", "study/seed-2"]


HOLD = """
import sys, time
from pathlib import Path
from cluster.status.heartbeat import heartbeat
from cluster.run_dir import RunDir
from tests.cluster.session_fakes import make_config
run_dir = RunDir.open(Path(sys.argv[1]), make_config(), resume=False, overwrite=False)
run_dir.archive.mkdir()
with heartbeat(run_dir, ("base",), "again --resume"):
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process at work in ``tmp_path / "run"``."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(words, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    yield process
    process.kill()
    process.communicate()


def test_status_is_honest_after_kill_9(tmp_path: Path, holder: subprocess.Popen[bytes]):
    status = read_status(tmp_path / "run")
    assert status.state is State.RUNNING
    assert status.writer is not None
    assert (status.writer.pid, status.writer.alive) == (holder.pid, True)
    assert is_locked(tmp_path / "run")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    status = read_status(tmp_path / "run")
    assert status.state is State.STOPPED
    assert f"process {holder.pid} ended without a word" in status.why
    assert status.resume == "again --resume"


def test_a_second_process_is_told_which_one_is_at_work(
    tmp_path: Path, holder: subprocess.Popen[bytes]
):
    with pytest.raises(ConfigError, match=rf"process {holder.pid} on .*, since 20\d\d-"):
        RunDir.open(tmp_path / "run", make_config(), resume=True, overwrite=False)
    assert read_status(tmp_path / "run").state is State.RUNNING


def test_a_process_on_another_machine_is_seen_by_its_signs(tmp_path: Path):
    run_dir = open_run(tmp_path)
    run_dir.close()
    there = replace(HEARTBEAT, host="another", last_beat=time.time() - 20, started=time.time() - 30)
    replace_json(status_file(run_dir.path), there.to_plain())
    with pytest.raises(ConfigError, match=r"process 7 on another.*2\d s ago.*again in \d\d s"):
        RunDir.open(run_dir.path, make_config(), resume=True, overwrite=False)
    dead = replace(there, last_beat=time.time() - SILENT_S - 1)
    replace_json(status_file(run_dir.path), dead.to_plain())
    RunDir.open(run_dir.path, make_config(), resume=True, overwrite=False).close()


def test_looking_at_a_run_does_not_keep_it_from_starting(tmp_path: Path):
    run_dir = open_run(tmp_path)
    run_dir.close()
    code = (
        "import sys, time; from pathlib import Path; from cluster.run_files import is_locked\n"
        "print('up', flush=True)\nwhile True: is_locked(Path(sys.argv[1])); time.sleep(0.005)"
    )
    words = [sys.executable, "-c", code, str(run_dir.path)]
    looker = subprocess.Popen(words, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE)
    try:
        assert looker.stdout is not None
        looker.stdout.readline()
        opened = 0
        for _ in range(20):
            RunDir.open(run_dir.path, make_config(), resume=True, overwrite=False).close()
            opened += 1
        assert opened == 20
    finally:
        looker.kill()
        looker.communicate()


def test_a_run_of_an_earlier_version_has_a_status(tmp_path: Path):
    run_dir = open_run(tmp_path)
    for stage in make_config().chain.names:
        run_dir.finish(stage, {"seconds": 1.0, "head": {"accuracy": 0.5}})
    run_dir.close()
    shutil.rmtree(run_dir.archive)
    status = read_status(run_dir.path)
    assert (status.state, status.writer, status.resume) == (State.FINISHED, None, "")


def test_keys_in_json_stay(tmp_path: Path):
    run_dir = open_run(tmp_path)
    progress = Progress(title="grpo", done=4, total=10, rate=0.5)
    beat = replace(HEARTBEAT, last_beat=time.time(), progress=progress)
    replace_json(status_file(run_dir.path), beat.to_plain())
    written = json.loads(status_file(run_dir.path).read_text())
    assert written["seen"] == beat.last_beat
    assert written["piece"] == {"title": "grpo", "done": 4, "total": 10, "rate": 0.5}
    assert read_heartbeat(run_dir.path) == beat
    printed = read_status(run_dir.path).to_plain()["piece"]
    assert printed == {"title": "grpo", "done": 4, "total": 10, "rate_per_s": 0.5, "left_s": 12.0}
