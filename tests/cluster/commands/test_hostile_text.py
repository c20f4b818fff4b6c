"""Text of others on the command line: labels, ids, file names, folders and errors that hold escape
sequences, bidirectional overrides and rich's markup. Nothing of it reaches the terminal as such."""

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from tests.cluster.report.builders import write_run
from tests.cluster.session_fakes import make_config, make_run_dir
from tests.cluster.trace_archives import write_archive
from tests.groups import make_completion, make_group, make_sample
from wire.types import Failure, FailureKind, Trace

ROOT = Path(__file__).parents[3]
EVIL = "[red]a[/] \x1b]0;owned\x07\x1b[2J \x9b31m \u202egnp.exe\u2069 [/nope]"
SHOWN = r"[red]a[/] \x1b]0;owned\x07\x1b[2J \x9b31m \u202egnp.exe\u2069 [/nope]"
Output = Callable[..., str]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    """Runs the command line; returns all that it wrote, which holds no control character."""

    def run(*words: str | Path) -> str:
        capsys.readouterr()
        with suppress(SystemExit):  # while parsing
            main([str(word) for word in words])
        streams = capsys.readouterr()
        text = streams.out + streams.err
        raw = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs")}
        assert raw <= {"\n"}, raw
        return text

    return run


def unfolded(text: str) -> str:
    """Text without the folds and columns of a table."""
    return "".join(text.split())


def test_a_wrong_word_and_a_wrong_path(output: Output, tmp_path: Path):
    assert SHOWN in output(f"run{EVIL}")
    assert SHOWN in output("run", tmp_path / f"{EVIL}.toml")


def evil_rows(rows: list[dict[str, Any]]) -> None:
    rows[0]["id"] = EVIL
    rows[0]["video"] = f"/nowhere/{EVIL}.mp4"
    rows[1]["id"] = f"{EVIL} 2"
    rows[2]["label"] = "varied"


def test_a_check_and_a_plan_of_evil_labels_ids_and_files(
    output: Output, recipe: Callable[..., Path]
):
    def spoil(rows: list[dict[str, Any]]) -> None:
        evil_rows(rows)
        for row in rows:
            row["label"] = EVIL if row["label"] == "zigzag" else row["label"]

    path = recipe(spoil)
    path.write_text(path.read_text().replace('"zigzag"', json.dumps(EVIL)))
    text = output("check", path)
    assert unfolded(f"{SHOWN}.mp4") in unfolded(text)
    table = text.partition("label")[2]
    assert unfolded(SHOWN) in unfolded(table), "the table of labels"
    output("plan", path)
    assert SHOWN in output("prompts", path)


def test_a_manifest_that_is_refused(output: Output, recipe: Callable[..., Path]):
    def spoil(rows: list[dict[str, Any]]) -> None:
        rows[0]["label"] = EVIL

    path = recipe(spoil)
    refused = output("run", path, "--run-dir", path.parent / "run")
    assert refused.startswith("error: ")
    assert "\\x1b]0;owned" in refused


def test_runs_in_evil_folders(output: Output, tmp_path: Path):
    folder = tmp_path / EVIL.replace("/", "|")
    shown = SHOWN.replace("/", "|")
    run_dir = make_run_dir(folder, make_config(), "base")
    run_dir.close()
    assert shown in output("status", run_dir.path / EVIL)
    assert "base 0.500" in output("status", run_dir.path, "--once")
    assert unfolded(shown) in unfolded(output("ls", folder))
    short = tmp_path / "runs" / "b[red]\x1b[2J"
    short.parent.mkdir()
    run_dir.path.rename(short)
    assert r"runs/b[red]\x1b[2J" in output("ls", short.parent)
    assert r"b[red]\x1b[2J" in output("status", short, "--once")
    output("report", short)


def test_an_archive_of_evil_labels_ids_and_answers(output: Output, tmp_path: Path):
    completion = make_completion(EVIL)
    outcome = Failure(kind=FailureKind.REWARD, culprit=EVIL, reason=EVIL)
    sample = make_sample(EVIL, id=EVIL, video=EVIL)
    group = make_group(Trace(completion=completion, outcome=outcome), group_id=EVIL, sample=sample)
    write_archive(tmp_path, [group, replace(group, group_id="other")])
    for words in (["ls"], ["ls", "--columns", "label"], ["show", EVIL], ["query", "FROM traces"]):
        text = output("archive", words[0], tmp_path, *words[1:])
        assert unfolded(SHOWN) in unfolded(text) or words == ["ls"]
    for form in ("--json", "--csv"):
        output("archive", "query", tmp_path, "SELECT label FROM traces LIMIT 0", form)
    output("archive", "ls", tmp_path, "--json", "--columns", "label,text")
    assert SHOWN in output("archive", "ls", tmp_path, "--where", EVIL)
    assert SHOWN in output("archive", "show", tmp_path, EVIL + "x")
    assert SHOWN in output("archive", "query", tmp_path, f'SELECT "{EVIL}"')


def test_a_comparison_of_evil_runs(output: Output, tmp_path: Path):
    runs = [tmp_path / "a[red]\x1b[2J", tmp_path / "b\u202e"]
    for path in runs:
        write_run(path)
    text = unfolded(output("compare", *runs))
    assert r"a[red]\x1b[2J" in text
    assert r"b\u202e" in text


def test_the_log_and_a_traceback_on_a_real_terminal(tmp_path: Path):
    """In a process of its own: pytest has loggers of its own."""
    code = (
        "import logging, sys\n"
        "from cluster import cli\n"
        "def fall(options):\n"
        "    logging.getLogger('x').warning('clip %s', sys.argv[1])\n"
        "    raise RuntimeError(sys.argv[1])\n"
        "from cluster.commands import compare\n"
        "compare._compare = fall\n"
        "sys.exit(cli.main(['compare', 'x', *sys.argv[2:]]))\n"
    )
    for words in ([], ["--debug"]):
        ended = subprocess.run(
            [sys.executable, "-c", code, EVIL, *words],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        text = ended.stderr.decode()
        assert ended.returncode == 1
        assert f"WARNING x: clip {SHOWN}" in text
        assert f"RuntimeError: {SHOWN}" in text
        assert not {c for c in text if unicodedata.category(c) == "Cc"} - {"\n"}
