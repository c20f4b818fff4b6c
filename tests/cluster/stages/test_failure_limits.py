"""Which failures end a run, and what a run begins with leaving out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cluster.inputs.quarantine import open_quarantine
from cluster.inputs.samples import SampleSplits
from cluster.run_dir import RunDir
from cluster.stages.failure_limits import refuse_failures
from tests.cluster.session_fakes import make_config
from tests.groups import make_group, make_trace
from video.address import Window
from video.pool import DecodePool
from wire.errors import ClipUnreachable, DataError, TooManyFailures
from wire.types import Failure, FailureKind, Sample, Split, TraceGroup


def failed_group(kind: FailureKind) -> TraceGroup:
    return make_group(failures=(Failure(kind=kind, culprit="a.mp4", reason="why"),))


def test_groups_that_could_not_be_written_end_a_run() -> None:
    good = make_group(make_trace())
    refuse_failures([good, good, failed_group(FailureKind.GENERATION)], 0.4)
    with pytest.raises(TooManyFailures, match=r"1 of 3 groups .*generation of a\.mp4: why"):
        refuse_failures([good, good, failed_group(FailureKind.GENERATION)], 0.3)


def test_bad_clips_are_for_the_quarantine_to_count() -> None:
    refuse_failures([make_group(make_trace()), failed_group(FailureKind.DECODE)], 0.0)


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., SampleSplits]:
    """Ten clips, of which the first ``bad`` are no videos."""

    def make(bad: int) -> SampleSplits:
        paths = [tmp_path / f"{index}.mp4" for index in range(10)]
        for index, path in enumerate(paths):
            if index < bad:
                path.write_text("no video")
            else:
                write_clip(path)
        return SampleSplits(
            samples=[
                Sample(id=f"s{i}", video=str(path), label="x", split=Split.TRAIN)
                for i, path in enumerate(paths)
            ]
        )

    return make


def write_clip(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(2):
            picture = np.zeros((32, 32, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def open_run(path: Path, **changes: Any) -> tuple[Any, RunDir]:
    config = make_config(data={"manifest": "m.jsonl", **changes})
    return config, RunDir.open(path / "run", config, resume=False, overwrite=False)


def test_a_few_bad_clips_are_left_out_and_said(
    make_data: Callable[..., SampleSplits], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(bad=2)
    quarantine = open_quarantine(*open_run(tmp_path, max_quarantine_frac=0.2), data)
    assert [sample.id for sample in data.samples if sample.video in quarantine] == ["s0", "s1"]
    listed = (tmp_path / "run" / "quarantine.jsonl").read_text()
    assert listed.count("a text file (no video), not a video") == 2
    said = capsys.readouterr()
    assert "2 of 10 clips cannot be read and are left out" in (said.out + said.err).replace(
        "\n", ""
    )


def test_too_many_bad_clips_are_an_error_with_all_of_them_listed(
    make_data: Callable[..., SampleSplits], tmp_path: Path
) -> None:
    config, run_dir = open_run(tmp_path, max_quarantine_frac=0.2)
    with pytest.raises(
        DataError, match=r"3 clips cannot be used, .*allows 2.*0\.mp4: cannot decode"
    ):
        open_quarantine(config, run_dir, make_data(bad=3))
    assert len((tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()) == 3
    # mended, and started again
    assert len(open_quarantine(config, run_dir, make_data(bad=1))) == 1


def test_a_resumed_run_keeps_what_it_left_out(
    make_data: Callable[..., SampleSplits], tmp_path: Path
) -> None:
    config, run_dir = open_run(tmp_path, max_quarantine_frac=0.2, check_clips=False)
    run_dir.archive.mkdir()
    data = make_data(bad=0)
    quarantine = open_quarantine(config, run_dir, data)
    quarantine.add(data.samples[4].video, "s4", "no result within decode_timeout_s")
    assert data.samples[4].video in open_quarantine(config, run_dir, data)


def test_clips_that_were_opened_before_are_not_opened_at_the_next_start(
    make_data: Callable[..., SampleSplits], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    probe = DecodePool.probe

    def noted(self: DecodePool, path: Path, window: Window | None = None) -> None:
        opened.append(path.name)
        probe(self, path, window)

    monkeypatch.setattr(DecodePool, "probe", noted)
    config, run_dir = open_run(tmp_path, max_quarantine_frac=0.2)
    data = make_data(bad=2)
    assert len(open_quarantine(config, run_dir, data)) == 2
    assert len(opened) == 10
    opened.clear()
    assert len(open_quarantine(config, run_dir, data)) == 2  # a resume
    assert sorted(opened) == ["0.mp4", "1.mp4"], "the bad ones may have been mended"
    opened.clear()
    (tmp_path / "run" / "opened-clips.json").unlink()
    open_quarantine(config, run_dir, make_data(bad=0))  # another run, clips written anew
    assert len(opened) == 10


def test_a_clip_whose_disk_fails_is_not_quarantined(
    make_data: Callable[..., SampleSplits],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def failing(self: DecodePool, path: Path, window: Window | None = None) -> None:
        if path.name == "3.mp4":
            raise ClipUnreachable("the disk of 3.mp4 failed")

    monkeypatch.setattr(DecodePool, "probe", failing)
    config, run_dir = open_run(tmp_path, max_quarantine_frac=0.0)
    assert len(open_quarantine(config, run_dir, make_data(bad=0))) == 0
    assert "1 clips were not opened, and are tried again" in caplog.text
    opened = json.loads((tmp_path / "run" / "opened-clips.json").read_text())["opened"]
    assert str(tmp_path / "2.mp4") in opened
    assert str(tmp_path / "3.mp4") not in opened
