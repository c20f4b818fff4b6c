"""The command archive, through the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.cli import main
from tests.cluster.trace_archives import FIRST_ID, make_groups, write_archive

ROOT = Path(__file__).parents[3]
Output = Callable[..., tuple[int, str, str]]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Output:
    """Runs ``archive NAME RUN ...`` on a small archive; its status, stdout and stderr."""
    write_archive(tmp_path)

    def run(name: str, *words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["archive", name, str(tmp_path), *words])
        streams = capsys.readouterr()
        return status, streams.out, streams.err

    return run


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_ls_counts_by_purpose(output: Output):
    status, text, _ = output("ls")
    assert status == 0
    assert "calibration   cal" in text
    assert "3 files" in text
    counts = [(row["purpose"], row["label"]) for row in lines(output("ls", "--json")[1])]
    assert counts == [("calibration", "redo"), ("train", "redo"), ("train", "undo")]


def test_ls_with_a_filter_lists_rows_and_says_how_to_go_on(output: Output):
    _, text, more = output("ls", "--where", "label=undo", "reward>=1", "--limit", "1")
    assert "grpo/train/2" in text
    assert "grpo/train/4" not in text
    assert "more with --page 2" in more
    _, text, more = output(
        "ls", "--where", "label=undo", "reward>=1", "--limit", "1", "--page", "2"
    )
    assert "grpo/train/4" in text
    _, text, more = output("ls", "--where", "reward>100")
    assert (text, more) == ("", "no trace matches\n")


def test_ls_with_the_newest_first(output: Output):
    rows = lines(output("ls", "--newest", "--limit", "2", "--columns", "sample_id", "--json")[1])
    assert rows == [{"sample_id": "clip-7"}] * 2


def test_ls_as_json_gives_all_rows_with_their_columns(output: Output):
    rows = lines(output("ls", "--columns", "sample_id,logprobs", "--json")[1])
    assert len(rows) == sum(max(1, len(group.traces)) for group in make_groups())
    logprobs = list(make_groups()[1].traces[0].completion.logprobs)
    assert rows[1] == {"sample_id": "clip-0", "logprobs": logprobs}


def test_show_prints_a_group_or_one_trace(output: Output):
    assert "open the door" in output("show", FIRST_ID)[1]
    assert "open the door" not in output("show", FIRST_ID, "0")[1]
    (group,) = lines(output("show", FIRST_ID, "1", "--json")[1])
    assert (group["sample_id"], group["traces"][0]["text"]) == ("clip-0", "open the door")
    status, _, said = output("show", FIRST_ID, "2")
    assert (status, "has 2 traces, numbered from 0; got 2" in said) == (2, True)
    status, _, said = output("show", "grpo/trian/0")
    assert (status, "did you mean 'grpo/train/0'?" in said) == (2, True)


def test_query_as_table_json_and_csv(output: Output):
    sql = "SELECT sample_id, reward_parts, reward FROM traces WHERE reward >= 3 ORDER BY ALL"
    _, text, more = output("query", sql, "--limit", "1")
    assert "clip-6" in text
    assert "clip-7" not in text
    assert "the first 1 rows" in more
    rows = lines(output("query", sql, "--json")[1])
    assert rows[1] == {
        "sample_id": "clip-7",
        "reward_parts": {"accuracy": 3.5, "format": 1.0},
        "reward": 3.5,
    }
    assert output("query", sql, "--csv", "--limit", "1")[1] == (
        'sample_id,reward_parts,reward\nclip-6,"{""accuracy"": 3.0, ""format"": 1.0}",3.0\n'
    )
    status, _, said = output("query", "SELECT labl FROM traces")
    assert (status, 'Candidate bindings: "label"' in said) == (2, True)


def test_export_says_what_it_wrote(output: Output, tmp_path: Path):
    out = str(tmp_path / "out.jsonl")
    words = ("export", out, "--format", "jsonl", "--where", "label=undo", "--columns", "reward")
    status, _, said = output(*words)
    assert status == 0
    assert "9 rows, 0.1 kB" in said
    assert "personal data" in said
    rows = lines(Path(out).read_text())
    assert [row["reward"] for row in rows][:4] == [None, 0.0, None, 1.0]
    status, _, said = output(*words)
    assert (status, "is there already" in said) == (2, True)


def test_the_formats_are_those_that_can_be_written():
    from cluster.archive.export.export import WRITERS
    from cluster.commands.archive import _FORMATS

    assert tuple(WRITERS) == _FORMATS


def test_the_schema_needs_no_archive(capsys: pytest.CaptureFixture[str]):
    assert main(["archive", "schema", "--json"]) == 0
    rows = lines(capsys.readouterr().out)
    assert rows[0]["column"] == "group_id"


def test_a_wrong_filter_or_place_is_one_line(output: Output, capsys: pytest.CaptureFixture[str]):
    status, _, said = output("ls", "--where", "labl=undo")
    assert (status, said.startswith("error: "), "did you mean 'label'?" in said) == (2, True, True)
    assert main(["archive", "ls", "/nowhere"]) == 2
    assert "give the directory of a run" in capsys.readouterr().err


def test_a_reader_that_closes_the_pipe_is_no_error(tmp_path: Path):
    write_archive(tmp_path, make_groups(400))  # more than a pipe holds
    columns = "group_id,sample_extra,prompt_token_ids,logprobs,text,clip_key,reward_parts,video"
    words = ["archive", "ls", str(tmp_path), "--json", "--columns", columns]
    with subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_wrong_numbers_and_bytes_that_are_no_text_are_refused(
    output: Output, capsys: pytest.CaptureFixture[str]
):
    huge, no_text = "9" * 20, os.fsdecode(b"label=\xff")
    for words, expected in (
        (("ls", "--limit", huge), "a whole number from 1 on"),
        (("ls", "--page", "2.5"), "a whole number from 1 on"),
        (("ls", "--where", no_text), "no UTF-8"),
        (("query", no_text), "no UTF-8"),
        (("show", no_text), "no UTF-8"),
        (("verify", "--videos", "-3"), "a whole number from 0 on"),
    ):
        with pytest.raises(SystemExit, match="2"):
            output(*words)
        assert expected in capsys.readouterr().err
    status, _, said = output("ls", "--columns", "")
    assert (status, "must name columns" in said) == (2, True)
    most = str((1 << 62) - 1)
    assert output("ls", "--limit", most)[0] == output("query", "SELECT 1", "--limit", most)[0] == 0


def test_a_journal_that_cannot_be_read_is_named(output: Output, tmp_path: Path):
    (tmp_path / "archive/journal-9.bin").mkdir()
    for words in (("ls",), ("ls", "--limit", "1"), ("query", "SELECT 1"), ("verify",)):
        status, text, said = output(*words)
        assert status == 1
        assert "journal-9.bin" in text + said
        assert "bug" not in said
