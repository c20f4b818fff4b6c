"""The runner of `python -m tests.gpu`: what it keeps when a check goes wrong, on real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.__main__ import main
from tests.gpu.catalogue import CHECKS, Check
from tests.gpu.run import Run

ROOT = Path(__file__).parents[2]


def faulty(how: str, **changed: Any) -> Check:
    values = {"name": how, "module": "faulty", "what": "", "seconds": 60.0, "arguments": (how,)}
    return Check(**{**values, **changed})


def rows_of(file: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in map(json.loads, file.read_text().splitlines())}


def test_a_check_that_goes_wrong_keeps_its_rows_and_does_not_stop_the_others(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    faults = ["crashes", "raises", "misses_its_limit", "goes_well"]
    run = Run("cpu", file)
    run.take_all([faulty(how) for how in faults], 60)
    rows = rows_of(file)
    assert all(rows[f"{how}/before"]["ok"] for how in faults)
    assert rows["crashes"]["ok"] is False
    assert rows["crashes"]["note"] == "ended by SIGSEGV"
    assert rows["raises"]["note"].endswith("RuntimeError: the card fell off the bus")
    assert rows["misses_its_limit/after"]["ok"] is False
    assert "goes_well" not in rows
    assert (run.passed, run.failed, run.not_run) == (4, 3, 0)


def test_a_check_that_hangs_is_ended_when_its_time_is_over(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    Run("cpu", file).take_all([faulty("hangs", seconds=3.0), faulty("goes_well")], 60)
    rows = rows_of(file)
    assert rows["hangs/before"]["ok"]
    assert rows["hangs"]["ok"] is False
    assert rows["hangs"]["note"] == "ended after 3 s, which is all it gets"
    assert rows["goes_well/before"]["ok"]


def test_a_check_for_which_something_is_missing_is_left_out_by_name(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    run = Run("cpu", file)
    run.take_all([faulty("misses_a_module"), faulty("other", needs=("no_such_engine",))], 60)
    rows = rows_of(file)
    missing = "skipped: needs {}, which is not installed"
    assert rows["misses_a_module"]["note"] == missing.format("no_such_module")
    assert rows["other"]["note"] == missing.format("no_such_engine")
    assert (run.failed, run.not_run) == (0, 2)


def test_a_check_for_which_no_time_is_left_says_so(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    run = Run("cpu", file)
    run.take_all([faulty("goes_well")], 1.0)
    assert "no time left" in rows_of(file)["goes_well"]["note"]
    assert run.out_of_time


def test_a_row_says_what_was_measured_where_and_with_what(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    Run("cpu", file).take_all([faulty("goes_well")], 60)
    row = rows_of(file)["goes_well/before"]
    keys = "name value unit limit goal ok seconds device versions note"
    assert sorted(row) == sorted(keys.split())
    assert row["device"].startswith("cpu")
    assert row["versions"]["torch"]


def test_checks_side_by_side_write_whole_rows(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    names = [f"number_{n}" for n in range(6)]
    checks = [faulty(name, alone=name == "number_3") for name in names]
    Run("cpu", file, jobs=3).take_all(checks, 60)
    assert sorted(rows_of(file)) == [f"{name}/before" for name in names]


def test_a_run_that_is_killed_keeps_what_it_has_and_its_check_ends(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    script = (
        "import sys; from pathlib import Path; from tests.gpu import __main__ as program; "
        "from tests.gpu.test_run import faulty; "
        "program.CHECKS = (faulty('hangs'),); "
        "sys.exit(program.main(['--device', 'cpu', '--json', sys.argv[1]]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(file)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = children_of(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert rows_of(file)["hangs/before"]["ok"]
    assert children
    assert not [child for child in children if Path("/proc", str(child)).exists()]


def children_of(process: int) -> list[int]:
    listing = Path("/proc", str(process), "task")
    return [
        int(child)
        for task in listing.iterdir()
        for child in (task / "children").read_text().split()
    ]


def test_a_missing_card_is_said_before_anything_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--json", str(tmp_path / "rows.jsonl")]) == 2
    assert "`--device cpu` runs the same checks in small" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]):
    assert main(["--device", "cpu", "--only", "attention"]) == 2
    assert "attention_qwen2_vl" in capsys.readouterr().err


def test_the_checks_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(CHECKS)


@pytest.mark.slow
def test_two_processes_share_a_tensor_without_a_card(tmp_path: Path):
    """The quickest check, from the command line to its rows."""
    file = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "tests.gpu", "--device", "cpu", "--json", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--only", "ipc"], cwd=ROOT, check=True, env=environment, timeout=120)
    assert [row["ok"] for row in rows_of(file).values()] == [True] * 4
