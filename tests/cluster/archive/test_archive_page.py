"""docs/archive.md: its table of columns is that of the code, and its examples run."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.archive.columns import DERIVED, columns
from cluster.archive.query import query
from cluster.archive.tables import short_type
from cluster.cli import main
from tests.cluster.trace_archives import make_groups, write_archive
from wire.archive.archive import Archive

PAGE = Path(__file__).parents[3] / "docs/archive.md"
TEXT = PAGE.read_text()
SHOWN = "base/evaluation/test-0-00001"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


COMMANDS = [
    line
    for block in blocks("bash")
    for line in block.splitlines()
    if line.startswith("deepintuit archive")
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run at runs/demo with a group of the page."""
    first, *others = make_groups()
    write_archive(tmp_path / "runs/demo", [first, replace(others[0], group_id=SHOWN), *others])
    with Archive(tmp_path / "runs/demo/archive", 0) as archive:
        archive.compact(9)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs/demo"


def test_the_table_of_columns_is_that_of_the_code():
    lines = ["| column | type | meaning |", "|---|---|---|"]
    lines += [f"| `{one.name}` | `{short_type(one.type)}` | {one.meaning} |" for one in columns()]
    lines += [f"| `{name}` | `{kind}` | {text} |" for name, (kind, text) in DERIVED.items()]
    table = re.search(r"<!-- columns -->\n(.*)<!-- /columns -->", TEXT, re.DOTALL)
    assert table is not None
    assert table[1] == "\n".join(lines) + "\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_of_the_page_runs(command: str, run: Path, capsys: pytest.CaptureFixture[str]):
    words = shlex.split(command, comments=True)
    assert main(words[1:]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("sql", blocks("sql"))
def test_each_query_of_the_page_runs(sql: str, run: Path):
    list(query(run / "archive", sql))


@pytest.mark.parametrize("code", blocks("python"))
def test_each_snippet_of_the_page_runs(code: str, run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(run / "cache"))
    exec(code, {})


def test_the_page_has_examples_of_each_kind():
    assert len(COMMANDS) > 10
    assert len(blocks("sql")) > 3
    assert len(blocks("python")) > 3
