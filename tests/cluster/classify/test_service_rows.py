"""The command classify against a service that runs: real HTTP, a scripted champion."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from calibrate.client.retries import Retries
from cluster.classify import service_rows
from cluster.cli import main
from tests.calibrate.service.classifying import Classifying, classifying


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Classifying]:
    with classifying(tmp_path, versions=2) as one:
        yield one


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.mp4").write_bytes(name.encode())
    return folder


@pytest.fixture
def as_caller(service: Classifying, monkeypatch: pytest.MonkeyPatch) -> Classifying:
    monkeypatch.setenv("DEEPINTUIT_TOKEN", service.token("classify", "read"))
    return service


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_clips_are_sent_and_rows_are_those_of_the_local_command(
    as_caller: Classifying, clips: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["classify", as_caller.url, str(clips), f"{clips}/b.mp4#t=0.1,0.9"]) == 0
    out, err = capsys.readouterr()
    rows = rows_of(out)
    names = [*(f"{clips}/{name}.mp4" for name in "abc"), f"{clips}/b.mp4#t=0.1,0.9"]
    assert [row["id"] for row in rows] == names
    assert list(rows[0]) == [
        *("id", "video", "label", "probabilities", "prediction_set", "decision", "reasons"),
        *("trace", "frames", "versions", "seconds", "decision_id"),
    ]
    assert set(rows[0]["versions"]) == {"policy", "classifier", "calibrator"}
    assert rows[0]["versions"]["classifier"] == as_caller.running.service.registry.get(1).hash[:12]
    assert rows[0]["decision_id"].startswith("dec_")
    assert "4 clips in " in err
    asked = {clip.id: clip for _, clip, _ in as_caller.backend.asked}
    assert asked[names[3]].window == (0.1, 0.9)
    assert asked[names[0]].window is None


def test_a_clip_that_fails_is_a_row_with_its_failure(
    as_caller: Classifying, clips: Path, capsys: pytest.CaptureFixture[str]
):
    (clips / "b.mp4").write_bytes(b"fail: no moov atom")
    assert main(["classify", as_caller.url, str(clips)]) == 1
    out, err = capsys.readouterr()
    first, bad, last = rows_of(out)
    assert bad["failure"]["kind"] == "decode"
    assert "no moov atom" in bad["failure"]["reason"]
    assert first["label"]
    assert last["label"]
    assert "1 failed" in err


def test_labels_columns_and_windows_of_a_manifest_go_along(
    as_caller: Classifying, clips: Path, capsys: pytest.CaptureFixture[str]
):
    manifest = clips / "m.jsonl"
    rows = [
        {"video": "a.mp4", "id": "one", "label": "ABNORMAL", "title": "A cat", "start_s": 2},
        {"video": "b.mp4", "id": "two", "text": "hello"},
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["classify", as_caller.url, str(manifest), "--traces", "none"]) == 0
    out, err = capsys.readouterr()
    assert [row.get("truth") for row in rows_of(out)] == ["abnormal", None]
    assert "of 1 clips with a label" in err
    asked = {clip.id: clip for _, clip, _ in as_caller.backend.asked}
    assert asked["one"].columns == {"title": "A cat"}
    assert asked["one"].window == (2.0, 1e6)
    assert asked["two"].text == "hello"
    manifest.write_text(json.dumps({"video": "a.mp4", "label": "elsewhere"}))
    assert main(["classify", as_caller.url, str(manifest)]) == 2
    assert "unknown label 'elsewhere'" in capsys.readouterr().err


def test_a_control_and_another_version_are_asked_for(
    tmp_path: Path,
    clips: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    with classifying(tmp_path, versions=2, max_loaded=2) as service:
        monkeypatch.setenv("DEEPINTUIT_TOKEN", service.token("classify"))
        words = ["classify", service.url, str(clips), "--control", "blank", "--version", "2"]
        assert main(words) == 0
        out, err = capsys.readouterr()
        second = service.running.service.registry.get(2).hash[:12]
    for row in rows_of(out):
        assert row["control"]["view"] == "blank"
        assert 0 <= row["control"]["total_variation"] <= 1
        assert row["versions"]["classifier"] == second
    assert "control, grey frames" in err


@pytest.mark.parametrize(
    ("scopes", "words"),
    [((), "token"), (("read",), "scope classify")],
)
def test_a_token_that_does_not_do_ends_the_command(
    service: Classifying,
    clips: Path,
    scopes: Any,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("DEEPINTUIT_TOKEN", service.token(*scopes) if scopes else "di_x_wrong")
    assert main(["classify", service.url, str(clips)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


def test_the_token_may_lie_in_a_file_and_must_be_somewhere(
    service: Classifying,
    clips: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.delenv("DEEPINTUIT_TOKEN", raising=False)
    words = ["classify", service.url, str(clips / "a.mp4")]
    assert main(words) == 2
    assert "DEEPINTUIT_TOKEN" in capsys.readouterr().err
    (clips / "token").write_text(service.token("classify") + "\n")
    assert main([*words, "--token-file", str(clips / "token")]) == 0
    assert main([*words, "--token-file", str(clips / "nothing")]) == 2


@pytest.mark.parametrize(
    "option", [["--k", "3"], ["--device", "cpu"], ["--no-monitor"], ["--cache-dir", "x"]]
)
def test_options_of_engines_here_are_refused_for_a_service(
    option: list[str], clips: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["classify", "http://127.0.0.1:9", str(clips), *option]) == 2
    assert f"{option[0]} is of engines of this machine" in capsys.readouterr().err


def test_no_request_at_a_time_is_refused(clips: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["classify", "http://127.0.0.1:9", str(clips), "--in-flight", "0"]) == 2
    assert "expected 1 or more requests" in capsys.readouterr().err


def test_options_of_a_service_are_refused_for_engines_here(
    clips: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["classify", str(clips), str(clips), "--version", "2"]) == 2
    assert "--version are of a service" in capsys.readouterr().err


def test_a_service_that_is_not_there_is_named(
    clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("DEEPINTUIT_TOKEN", "di_1_x")
    monkeypatch.setattr(service_rows, "Retries", lambda seconds: Retries(seconds=0))
    assert main(["classify", "http://127.0.0.1:9", str(clips)]) == 1
    assert "127.0.0.1:9 did not answer" in capsys.readouterr().err


def test_a_token_over_plain_http_to_another_machine_is_warned_of(
    clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("DEEPINTUIT_TOKEN", "di_1_x")
    monkeypatch.setattr(service_rows, "Retries", lambda seconds: Retries(seconds=0))
    assert main(["classify", "http://service.invalid:8000", str(clips)]) == 1
    assert "service.invalid unencrypted" in capsys.readouterr().err
