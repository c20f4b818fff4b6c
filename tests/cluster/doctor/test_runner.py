"""No trial, however it goes wrong, stops the others, outlives its deadline or leaves a process."""

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.cli import main
from cluster.doctor.catalogue import Check, all_checks, choose
from cluster.doctor.runner import Result, run_check, run_checks
from wire.errors import ConfigError


@pytest.fixture(autouse=True)
def fakes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def fake(trial: str, deadline_s: float = 60, **settings: Any) -> Check:
    return Check(
        name=trial,
        trial=f"doctor_fakes:{trial}",
        deadline_s=deadline_s,
        remedy="the remedy",
        settings=settings,
    )


def real(name: str, **settings: Any) -> Result:
    (check,) = choose(all_checks(Path("runs")), [name])
    return run_check(
        Check(
            name=name,
            trial=check.trial,
            deadline_s=check.deadline_s,
            remedy=check.remedy,
            settings=settings or check.settings,
        )
    )


def test_a_trial_that_works_says_what_it_found_and_needs_no_remedy():
    result = run_check(fake("works", found="4 codecs"))
    assert (result.status, result.found, result.remedy) == ("ok", "4 codecs", "")


@pytest.mark.parametrize(
    ("trial", "found"),
    [
        ("raises", "ValueError: the first line"),
        ("crashes", "ended by SIGSEGV; its last line: about to fall"),
        ("leaves", "ended with status 7 and no answer"),
        ("no_such_trial", "AttributeError"),
    ],
)
def test_a_trial_that_goes_wrong_is_a_failure_with_a_remedy(trial: str, found: str):
    result = run_check(fake(trial))
    assert result.status == "failed"
    assert found in result.found
    assert result.remedy == "the remedy"


def test_a_trial_that_hangs_costs_its_deadline_and_the_others_go_on():
    before = time.monotonic()
    seen: list[str] = []
    results = run_checks(
        [fake("raises"), fake("hangs", deadline_s=1.5), fake("works")],
        on_end=lambda result: seen.append(result.name),
    )
    assert [result.status for result in results] == ["failed", "failed", "ok"]
    assert "no answer within 2 s" in results[1].found
    assert seen == ["raises", "hangs", "works"]
    assert time.monotonic() - before < 30


@pytest.mark.parametrize("seconds", [0, 600])
def test_nothing_that_a_trial_started_outlives_it(tmp_path: Path, seconds: float):
    file = tmp_path / "pid"
    run_check(fake("starts_others", deadline_s=4, file=str(file), seconds=seconds))
    pid = int(file.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_quick_starts_no_engine_and_says_so():
    checks = [check for check in all_checks(Path("runs")) if check.starts_engines]
    assert {check.name for check in checks} == {"ray", "deepspeed", "vllm", "nccl"}
    results = run_checks(checks, quick=True)
    assert {result.status for result in results} == {"skipped"}
    assert all(result.seconds == 0 for result in results)


def test_an_unknown_check_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'decoder'"):
        choose(all_checks(Path("runs")), ["decode"])


def test_every_check_has_a_trial_a_deadline_and_a_remedy():
    import importlib

    for check in all_checks(Path("runs")):
        module, _, function = check.trial.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), check.name
        assert 0 < check.deadline_s <= 300
        assert check.remedy


# --- the real trials


def test_other_versions_than_required_are_named(tmp_path: Path):
    (tmp_path / "base.in").write_text("# ours\nray[default]==1.0.0\nrich\nno-such-package>=2\n")
    for name in ("cpu.in", "cuda.in", "cpu.txt", "cuda.txt"):
        (tmp_path / name).write_text("")
    result = real("packages", requirements=str(tmp_path))
    assert result.status == "failed"
    assert "expected ray[default]==1.0.0" in result.found
    assert "no-such-package is not installed" in result.found
    assert "rich" not in result.found


def test_other_versions_than_locked_are_a_warning(tmp_path: Path):
    (tmp_path / "base.in").write_text("rich\n")
    for name in ("cpu.in", "cuda.in"):
        (tmp_path / name).write_text("")
    for name in ("cpu.txt", "cuda.txt"):
        (tmp_path / name).write_text("rich==0.0.1\npsutil==0.0.2\n")
    result = real("packages", requirements=str(tmp_path))
    assert result.status == "warning"
    assert "(lock: 0.0.1)" in result.found
    assert "make setup" in result.remedy


def test_this_environment_has_what_is_required():
    assert real("packages").status in ("ok", "warning")
    assert real("python").status == "ok"


def test_a_folder_that_cannot_be_written_fails_and_the_others_are_still_measured(tmp_path: Path):
    result = real("disk", folders={"runs": "/proc/runs", "tmp": str(tmp_path / "later")})
    assert result.status == "failed"
    assert "runs: cannot write to /proc" in result.found
    assert f"tmp ({tmp_path})" in result.found
    assert "MB/s" in result.found


def test_few_open_files_are_a_warning_with_the_command_to_mend_it():
    (check,) = choose(all_checks(Path("runs")), ["open-files"])
    result = run_check(fake("has_few_files"))
    assert result.status == "warning"
    assert "limit 256" in result.found
    assert "ulimit -n" in check.remedy


def test_a_ray_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    result = real("ports")
    assert result.status == "failed"
    assert "nothing answers at RAY_ADDRESS=127.0.0.1:1" in result.found
    assert "unset it" in result.remedy


def test_a_token_that_is_asked_for_and_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    result = real("ports")
    assert result.status == "failed"
    assert "ray get-auth-token --generate" in result.remedy


def test_all_codecs_are_written_and_read_back():
    result = real("decoder")
    assert result.status == "ok"
    assert result.found == "h264 works, hevc works, av1 works, vp9 works"


# --- the command


def test_the_command_writes_its_findings_and_ends_with_2_if_a_check_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    file = tmp_path / "found.json"
    assert (
        main(["doctor", "--only", "ports", "open-files", "vllm", "--quick", "--json", str(file)])
        == 2
    )
    out, err = capsys.readouterr()
    assert "deepintuit doctor --only ports" in err
    assert "nothing answers" in out
    found = {check["name"]: check["status"] for check in json.loads(file.read_text())["checks"]}
    assert found["ports"] == "failed"
    assert found["vllm"] == "skipped"
    monkeypatch.delenv("RAY_ADDRESS")
    assert main(["doctor", "--only", "ports", "--quick"]) == 0


@pytest.mark.slow
def test_ranks_that_reduce_agree_on_the_sum():
    """NCCL's trial, with gloo in its place: no GPU is needed."""
    from cluster.doctor.engine_trials import all_reduce

    all_reduce(2, "gloo")
    with pytest.raises(RuntimeError, match="all-reduce over 1 by no_such_backend"):
        all_reduce(1, "no_such_backend")


@pytest.mark.slow
@pytest.mark.ray
def test_the_real_engines_pass_and_leave_nothing_behind(tmp_path: Path):
    before = {process.pid for process in psutil.process_iter()}
    checks = choose(all_checks(tmp_path), ["ray", "deepspeed", "vllm"])
    results = run_checks(checks)
    assert [(r.name, r.status) for r in results] == [(c.name, "ok") for c in checks], results
    names = ("raylet", "gcs_server", "doctor_child", "VLLM")
    new = [p for p in psutil.process_iter(["cmdline"]) if p.pid not in before]
    left = [p for p in new if any(n in " ".join(p.info["cmdline"] or []) for n in names)]
    assert [p for p in left if p.status() != psutil.STATUS_ZOMBIE] == []
