import json
from pathlib import Path
from typing import Any

import pytest

from calibrate.service.batches import lines as batch_lines
from calibrate.service.batches.lines import MAX_LINE_BYTES, check_lines, numbered_lines, parse_line
from calibrate.service.problems import Problem
from tests.calibrate.service.batches.line_files import line, lines


def faults_of(path: Path, content: bytes) -> list[dict[str, Any]]:
    path.write_bytes(content)
    with pytest.raises(Problem) as raised:
        check_lines(path)
    assert raised.value.status == 422
    return raised.value.extra.get("errors", [])


def test_requests_are_counted_and_empty_lines_are_not(tmp_path: Path):
    path = tmp_path / "b.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(2) + b"\n  \r\n" + lines(3)[len(lines(2)) :].rstrip())
    assert check_lines(path) == 3
    parsed = [parse_line(number, raw) for number, raw in numbered_lines(path)]
    assert [(one.number, one.custom_id) for one in parsed] == [
        (1, "clip-0"),
        (2, "clip-1"),
        (5, "clip-2"),
    ]
    assert parsed[0].body == {"video": {"path": "clip-0.mp4"}}


@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        (b"{", "invalid_json_line", "no JSON"),
        (b"[1]", "invalid_json_line", "no JSON object"),
        (b"\xff\xfe{}", "invalid_json_line", "no JSON"),
        (b'{"custom_id": "\\ud800"}', "invalid_json_line", "surrogates"),
        (b'{"custom_id": NaN}', "invalid_json_line", "NaN"),
        (b"[" * 100_000, "invalid_json_line", "no JSON"),
        (json.dumps(line("")).encode(), "invalid_custom_id", "1 to 512"),
        (json.dumps(line("a", method="GET")).encode(), "invalid_method", "expected 'POST'"),
        (json.dumps(line("a", url="/v1/fits")).encode(), "invalid_url", "'/v1/classify'"),
        (json.dumps(line("a", body={"inputs": []})).encode(), "invalid_body", "path"),
        (
            json.dumps(line("a", body={"video": {"path": "a", "url": "b"}})).encode(),
            "invalid_body",
            "one of both",
        ),
        (b'{"a": "' + b"x" * MAX_LINE_BYTES + b'"}', "line_too_long", "bytes"),
    ],
)
def test_a_line_that_is_no_request_is_named_with_its_fault(
    tmp_path: Path, raw: bytes, code: str, words: str
):
    (fault,) = faults_of(tmp_path / "b.jsonl", lines(1) + raw + b"\n")
    assert (fault["line"], fault["code"]) == (2, code)
    assert words in fault["message"]
    assert len(fault["message"]) < 300


def test_an_id_that_two_lines_have_is_refused(tmp_path: Path):
    (fault,) = faults_of(tmp_path / "b.jsonl", lines(2) + lines(1))
    assert (fault["line"], fault["code"]) == (3, "duplicate_custom_id")
    assert "line 1 too" in fault["message"]


def test_a_file_without_a_request_or_with_too_many_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert faults_of(tmp_path / "b.jsonl", b"\n\n") == []
    monkeypatch.setattr(batch_lines, "MAX_LINES", 3)
    assert faults_of(tmp_path / "b.jsonl", lines(4)) == []
    (tmp_path / "b.jsonl").write_bytes(lines(3))
    assert check_lines(tmp_path / "b.jsonl") == 3


def test_of_many_faults_the_first_hundred_are_named(tmp_path: Path):
    faults = faults_of(tmp_path / "b.jsonl", b"x\n" * 1000)
    assert [fault["line"] for fault in faults] == list(range(1, 101))
