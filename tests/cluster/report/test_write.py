import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.cli import main
from cluster.report.page import Texts, _scoped, to_json
from cluster.report.write import report_at_end, write_report
from tests.cluster.report.builders import write_run
from tests.cluster.study.study_runs import make_run
from wire.errors import ConfigError, DataError


@example("\ud800 </script>")
@given(
    st.recursive(
        st.none() | st.booleans() | st.text(st.characters(codec=None), max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=5,
    )
)
def test_data_survives_its_escapes_and_cannot_leave_its_block(value: object) -> None:
    text = to_json(value)
    assert json.loads(text) == value
    assert not re.search("[<>&\u2028\u2029]", text)
    text.encode()


def test_numbers_that_json_does_not_know_are_null() -> None:
    assert json.loads(to_json({"a": float("nan"), "b": [float("inf"), 0.123456789]})) == {
        "a": None,
        "b": [None, 0.12346],
    }


def test_a_text_is_kept_once() -> None:
    texts = Texts()
    assert [texts.place("a"), texts.place("b"), texts.place("a"), texts.place(None)] == [
        0,
        1,
        0,
        None,
    ]
    assert texts.values == ["a", "b"]


def test_a_module_keeps_its_scope_and_gives_its_exports() -> None:
    source = (
        'import { a, b } from "./dom.js";\n\nexport function f() {}\n'
        "export const c = 1;\nconst d = 2;\n"
    )
    found = _scoped("page", source)
    assert "const { a, b } = modules.dom;" in found
    assert "return {f, c};" in found
    with pytest.raises(ValueError, match=r"page\.js: import names in braces"):
        _scoped("page", 'import a from "./dom.js";\n')


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path / "r").path).path.read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', text) == []
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert "unsafe" not in re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]  # type: ignore[index]


def test_clips_are_left_out_from_the_end_until_the_page_fits(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    whole = write_report(run.path, tmp_path / "whole.html")
    assert (whole.num_clips, whole.num_groups) == (10, 3)
    limit = whole.size_mb - 0.02
    small = write_report(run.path, tmp_path / "small.html", max_mb=limit)
    assert small.num_clips < 10
    assert (tmp_path / "small.html").stat().st_size <= limit * 1e6
    block = (tmp_path / "small.html").read_text(encoding="utf-8").split('id="data">')[1]
    data = json.loads(block.split("</script>")[0])
    assert (len(data["clips"]), data["num_clips"]) == (small.num_clips, 10)
    assert data["clips"][0]["id"] == "test-7"


def test_a_limit_below_the_empty_page_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    with pytest.raises(ConfigError, match=r"even without clips; --max-mb is 0\.01"):
        write_report(run.path, max_mb=0.01)
    assert not list(run.path.glob("report*"))


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "r")
    out = tmp_path / "new folder" / "x.html"
    assert main(["report", str(run.path), "--out", str(out), "--max-clips", "4"]) == 0
    assert "4 evaluated clips, 3 groups of the training" in capsys.readouterr().err
    assert out.is_file()
    assert not (run.path / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no run in nowhere"),
        (["{run}", "--max-clips", "-1"], "--max-clips -1"),
        (["{run}", "--max-mb", "0"], "--max-mb 0"),
        (["{run}", "--out", "{run}"], "cannot write the report"),
    ],
)
def test_a_wrong_command_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    run = make_run(tmp_path / "r")
    assert main(["report", *(word.format(run=run.path) for word in words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said


def test_a_run_ends_with_its_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    with report_at_end(run.path):
        pass
    assert (run.path / "report.html").is_file()


def test_a_run_that_fails_has_a_report_too_and_fails_as_before(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    with pytest.raises(DataError, match="as before"), report_at_end(run.path):
        raise DataError("as before")
    assert (run.path / "report.html").is_file()


def test_a_run_that_was_interrupted_ends_at_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    with pytest.raises(KeyboardInterrupt), report_at_end(run.path):
        raise KeyboardInterrupt
    assert not (run.path / "report.html").exists()


def test_a_report_that_fails_does_not_fail_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "r")
    (run.path / "report.html").mkdir()
    with report_at_end(run.path):
        pass
    assert "no report: ConfigError" in capsys.readouterr().out


def test_a_run_that_never_began_has_no_report(tmp_path: Path) -> None:
    with report_at_end(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
