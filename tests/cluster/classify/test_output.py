"""Lines of JSON and of the table; the file of --out; standard output for rows alone."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from calibrate.decision import Reason
from cluster.classify.output import RowWriter, result_file
from tests.architecture.product import ROOT
from tests.cluster.classify.test_rows import FAILED, ROW, controlled
from wire.errors import ConfigError


def table(*rows: object, with_traces: bool = False) -> list[str]:
    stream = io.StringIO()
    writer = RowWriter(stream, "table", with_traces=with_traces)
    for row in rows:
        writer.write(row)  # type: ignore[arg-type]
    return stream.getvalue().splitlines()[1:]


def test_json_lines_are_rows_with_or_without_their_traces() -> None:
    for with_traces in (True, False):
        stream = io.StringIO()
        RowWriter(stream, "jsonl", with_traces=with_traces).write(ROW)
        assert json.loads(stream.getvalue()) == json.loads(
            json.dumps(ROW.as_json(with_trace=with_traces))
        )


def test_a_line_of_the_table_says_decision_label_and_why() -> None:
    auto, failed = table(ROW, FAILED)
    assert auto.split() == ["auto", "undo", "0.800", "a.mp4"]
    assert failed.split() == ["failed", "decode", "b.mp4", "cut"]
    review = replace(
        ROW,
        decision="review",
        truth="repeat",
        prediction_set=("repeat", "undo"),
        reasons=(Reason(code="below_threshold", text="confidence is low"),),
    )
    (line,) = table(review)
    assert line.endswith("true label repeat; may be repeat, undo; confidence is low")
    (moved,) = table(controlled("repeat", 0.5))
    assert moved.endswith("blank: -> repeat, 0.50 moved")
    assert len(table(ROW, with_traces=True)) == 2


def test_names_of_others_do_not_steer_the_terminal() -> None:
    (line,) = table(replace(ROW, id="a\x1b[31m\n" + "x" * 90))
    assert "\x1b" not in line
    assert len(line) < 120


def test_a_file_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    path.write_text("before")
    with pytest.raises(ConfigError, match="exists already; give another file, or --overwrite"):
        result_file(path, overwrite=False).__enter__()
    with result_file(path, overwrite=True) as file:
        file.write("anew\n")
    assert path.read_text() == "anew\n"
    with pytest.raises(ConfigError, match="give --out the path of a file"):
        result_file(tmp_path / "no/o.jsonl", overwrite=False).__enter__()


PRINTING = """
import os, sys
from cluster.classify.output import rows_to_stdout
with rows_to_stdout() as rows:
    os.write(1, b"a library prints\\n")
    rows.write("a row\\n")
    rows.flush()
print("and after")
"""


def test_what_libraries_print_does_not_get_among_the_rows() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTING],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout == "a row\nand after\n"
    assert "a library prints" in done.stderr
