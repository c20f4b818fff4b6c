"""The commands that keep an archive, through the command line."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.inputs.policies import POLICIES_FILE
from tests.buckets import s3_bucket
from tests.cluster.trace_archives import write_archive
from wire import remote_path
from wire.archive.archive import read_table
from wire.archive.parquet_files import parquet_files

Output = Callable[..., tuple[int, str]]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Output:
    """Runs ``archive NAME RUN ...`` on a small archive; its status and all that it prints."""
    write_archive(tmp_path)

    def run(name: str, *words: str) -> tuple[int, str]:
        capsys.readouterr()
        status = main(["archive", name, str(tmp_path), *words])
        streams = capsys.readouterr()
        return status, streams.out + streams.err

    return run


def test_compact_merges_and_says_so(output: Output, tmp_path: Path) -> None:
    status, text = output("compact", "--json", str(tmp_path / "report.json"))
    assert status == 0
    assert "3 files of" in text
    assert "are now 1 of" in text
    assert "1 journals of attempts that had ended" in text
    assert json.loads((tmp_path / "report.json").read_text())["files_after"] == 1
    assert len(parquet_files(tmp_path / "archive")) == 1
    with pytest.raises(SystemExit, match="2"):
        output("compact", "--target-mb", "0")


def test_verify_has_an_exit_status_and_its_findings(output: Output, tmp_path: Path) -> None:
    status, text = output("verify")
    assert status == 0
    assert "read and sound: 2 files and 1 journals" in text
    path = parquet_files(tmp_path / "archive")[0]
    path.write_bytes(path.read_bytes()[:-20])
    status, text = output("verify", "--json", str(tmp_path / "findings.json"))
    assert status == 1
    assert f"{path.name} is damaged" in text
    content = json.loads((tmp_path / "findings.json").read_text())
    assert content["passed"] is False
    assert content["findings"][0]["level"] == "error"


def test_gc_only_lists_unless_it_is_told_to_delete(output: Output, tmp_path: Path) -> None:
    left = tmp_path / "archive/traces/x.parquet.merging"
    left.write_bytes(b"half")
    status, text = output("gc")
    assert status == 0
    assert "traces/x.parquet.merging  half of a merged file" in text
    assert "remove them with --delete" in text
    assert left.exists()
    output("gc", "--delete")
    assert not left.exists()
    assert "nothing to remove" in output("gc")[1]


def test_delete_hides_compact_removes_and_verify_proves(output: Output, tmp_path: Path) -> None:
    rows = read_table(tmp_path / "archive", ["video", "sample_id"])
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"frames")
    status, text = output("delete", "--video", str(video))
    assert status == 0
    assert "0 groups, 0 traces" in text
    assert "weights that learned from them" in text
    assert len(read_table(tmp_path / "archive", ["video"])) == len(rows)
    status, text = output("verify")
    assert status == 0
    assert "no row of 1 deleted videos is in any of" in text
    assert output("delete")[0] == 2
    status, text = output("delete", "--video-hash", "abc")
    assert status == 2
    assert "'abc' is no video hash" in text


def test_an_archive_in_s3_takes_the_same_commands(
    output: Output, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remote_path._system.cache_clear()
    with s3_bucket() as bucket:
        run = f"{bucket}/demo"
        assert "files are in s3://yard/demo/archive" in output("copy", run)[1]
        for words in (["ls"], ["compact"], ["verify"], ["gc"], ["ls", "--where", "label=undo"]):
            assert main(["archive", words[0], run, *words[1:]]) == 0, words
        assert main(["archive", "show", run, "grpo/train/0"]) == 0
        assert main(["archive", "query", run, "SELECT count(*) AS n FROM traces", "--json"]) == 0
        assert '{"n": 17}' in capsys.readouterr().out.replace('{"n":17}', '{"n": 17}')
        out = tmp_path / "out.jsonl"
        assert main(["archive", "export", run, str(out), "--format", "jsonl"]) == 0
        assert len(out.read_text().splitlines()) == 17
        assert main(["archive", "ls", f"{bucket}/nowhere"]) == 2
    remote_path._system.cache_clear()


def test_tombstones_that_cannot_be_read_are_a_finding(output: Output, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "archive/deleted.json").write_text("{")
    status, text = output("verify", "--json", str(tmp_path / "findings.json"))
    assert status == 1
    (finding,) = [
        one
        for one in json.loads((tmp_path / "findings.json").read_text())["findings"]
        if one["level"] == "error"
    ]
    assert "deleted.json" in finding["what"], text


def test_an_index_that_was_not_compared_is_not_called_equal(output: Output, tmp_path: Path) -> None:
    output("compact")
    (path,) = parquet_files(tmp_path / "archive")
    path.write_bytes(path.read_bytes()[:-20])
    assert "the index of 0 files is equal" in output("verify")[1]


def test_a_copy_says_whose_weights_wrote_its_traces(output: Output, tmp_path: Path) -> None:
    (tmp_path / "archive" / POLICIES_FILE).write_text("{}\n")
    assert output("copy", str(tmp_path / "there"))[0] == 0
    assert (tmp_path / "there/archive" / POLICIES_FILE).read_text() == "{}\n"


def test_a_full_disk_says_what_was_kept_and_not_to_resume(
    output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("wire.archive.deletion.write_json", no_room)
        status, text = output("delete", "--video-hash", "A" * 64)
    assert status == 1
    assert "nothing is deleted" in text
    assert "free some and give the command again" in text
    monkeypatch.setattr("wire.archive.store._copy", no_room)
    assert "full: free some and give the command again" in output("copy", str(tmp_path / "x"))[1]
