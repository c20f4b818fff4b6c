"""The process of a fit, up to where a learner would start. (With a learner:
tests/end_to_end/test_fit_jobs.py.)"""

import asyncio
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from calibrate.service.jobs.fit_spec import Failed, FitSpec, Phase, Published, read_message
from cluster.driver.progress import Progress
from cluster.fitting import open_watcher
from cluster.fitting.watch import CandidateFit
from cluster.serving import fit_process
from cluster.serving.fit_process import PlacedFitter, Teller, fit_place
from tests.cluster.fitting.scripted_runs import ScriptedRun
from tests.cluster.session_fakes import make_config
from wire.errors import ConfigError, DataError, DiskFull, UserError, WorkerDied
from wire.types import PolicyVersion


def make_spec(tmp_path: Path, **values: object) -> Path:
    spec = FitSpec.model_validate(
        {
            "source": tmp_path,
            "out": tmp_path / "out",
            "cores": sorted(os.sched_getaffinity(0))[-1:],
            "places": [tmp_path / "place"],
            **values,
        }
    )
    file = tmp_path / "spec.json"
    file.write_text(spec.model_dump_json())
    return file


def spec_in(file: Path) -> FitSpec:
    return FitSpec.model_validate_json(file.read_bytes())


def start(spec: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.serving.fit_process", str(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow  # it imports what a learner needs
def test_a_place_without_traces_is_final_and_said_in_a_message(tmp_path: Path):
    with start(make_spec(tmp_path)) as process:
        assert process.stdout is not None
        messages = [read_message(line) for line in process.stdout]
        assert process.stderr is not None
        log = process.stderr.read()
    assert process.returncode == 1
    assert messages[0] == Phase(phase="reading the archive")
    failed = messages[-1]
    assert isinstance(failed, Failed)
    assert (failed.error, failed.is_final) == ("ConfigError", True)
    assert "holds no run and no archive" in failed.detail
    assert b"Traceback" in log


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "the end of its service"])
def test_a_watcher_s_process_ends_when_asked_to_and_with_its_service(tmp_path: Path, how: str):
    run = ScriptedRun(tmp_path / "run")  # goes on
    with start(make_spec(tmp_path, source=run.path, watch=True)) as process:
        assert process.stdout is not None
        assert read_message(process.stdout.readline()) == Phase(phase="watching")
        assert os.getpriority(os.PRIO_PROCESS, process.pid) >= 10
        assert os.sched_getaffinity(process.pid) == {max(os.sched_getaffinity(0))}
        if how == "SIGTERM":
            process.terminate()
        else:
            assert process.stdin is not None
            process.stdin.close()
        assert process.wait(30) == 130
        assert process.stdout.read() == b""


async def test_a_place_is_held_by_one_and_waited_for_by_others(tmp_path: Path):
    places, order = [tmp_path / "place"], []

    async def fit(name: str) -> None:
        async with fit_place(places, lambda: order.append(f"{name} waits")):
            order.append(f"{name} fits")
            await asyncio.sleep(0.05)

    await asyncio.gather(fit("a"), fit("b"))
    assert order == ["a fits", "b waits", "b fits"]
    both = [tmp_path / "place", tmp_path / "second"]
    async with fit_place(both, order.clear), fit_place(both, order.clear):
        assert order, "two places, nobody waits"


async def test_a_watcher_s_fit_holds_a_place_and_says_so(tmp_path: Path):
    out = io.StringIO()

    async def fit(order: CandidateFit) -> str:
        assert fit_process._take([tmp_path / "place"]) is None, "it is held"
        return "policy"

    version = PolicyVersion(attempt=0, step=41)
    order = CandidateFit(
        version=version, step=40, model=tmp_path, learn_from=frozenset(), out=tmp_path
    )
    assert await PlacedFitter(fit, [tmp_path / "place"], Teller(out))(order) == "policy"
    phases = [json.loads(line)["phase"] for line in out.getvalue().splitlines()]
    assert phases == ["fitting version 0.41", "watching"]


class PublishingFitter:
    """In place of RunCandidateFitter: publishes a folder at once."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    async def __call__(self, order: CandidateFit) -> str:
        order.out.mkdir()
        return "policy"


def told(out: io.StringIO) -> list[Phase | Published | Failed | None]:
    return [read_message(line.encode()) for line in out.getvalue().splitlines()]


def test_a_watcher_tells_of_each_candidate_and_of_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(open_watcher, "RunCandidateFitter", PublishingFitter)
    run = ScriptedRun(tmp_path / "run")
    run.validate(0, 4)
    run.finish()
    spec = spec_in(make_spec(tmp_path, source=run.path, watch=True))
    fit_process._watch(spec, Teller(out := io.StringIO()))
    version = str(run.version(0))
    published = Published(name=version, path=str(tmp_path / "out/candidates" / version))
    words = [f"fitting version {version}", "watching"]
    assert told(out) == [Phase(phase="watching"), *(Phase(phase=one) for one in words), published]
    fit_process._watch(spec, Teller(again := io.StringIO()))
    assert told(again) == [Phase(phase="watching"), published]


def test_the_end_of_a_run_that_did_not_finish_is_the_watcher_s_failure(tmp_path: Path):
    run = ScriptedRun(tmp_path / "run")
    run.die()
    spec = spec_in(make_spec(tmp_path, source=run.path, watch=True))
    with pytest.raises(UserError, match="resume it, and post this fit again to go on"):
        fit_process._watch(spec, Teller(io.StringIO()))


def test_a_recipe_that_takes_gpus_needs_some_for_fits(tmp_path: Path):
    spec = spec_in(make_spec(tmp_path))
    config = make_config(learner={"num_gpus": 1})
    with pytest.raises(ConfigError, match="start it with --fit-gpus"):
        fit_process._refuse_gpus(config, spec)
    fit_process._refuse_gpus(config, spec.model_copy(update={"gpus": (0,)}))
    fit_process._refuse_gpus(make_config(), spec)


def test_progress_is_told_at_begin_and_end_and_not_for_every_part():
    out = io.StringIO()
    teller = Teller(out)
    for done in range(1001):
        teller.progress(Progress(title="verdict", done=done, total=1000, rate=1.0))
    teller.progress(Progress(title="next", done=0, total=2, rate=0.0))
    said = [read_message(line.encode()) for line in out.getvalue().splitlines()]
    assert said[0] == Phase(phase="verdict", done=0, total=1000)
    assert said[-2:] == [
        Phase(phase="verdict", done=1000, total=1000),
        Phase(phase="next", done=0, total=2),
    ]
    assert len(said) < 20


@pytest.mark.parametrize(
    ("error", "kind", "words", "is_final"),
    [
        (DataError("no traces"), "DataError", "no traces", True),
        (ExceptionGroup("fit", [DataError("no traces")]), "DataError", "no traces", True),
        (WorkerDied("rank 1"), "WorkerDied", "rank 1", False),
        (KeyError("a"), "KeyError", "KeyError: 'a'", False),
        (OSError(28, "No space left on device"), "DiskFull", "free some, and post this", True),
        (DiskFull("the disk is full: free some and --resume"), "DiskFull", "post this fit", True),
    ],
)
def test_an_error_says_whether_another_try_would_help(
    tmp_path: Path, error: Exception, kind: str, words: str, is_final: bool
):
    failed = fit_process._failure(error, tmp_path / "out")
    assert (failed.error, failed.is_final) == (kind, is_final)
    assert words in failed.detail


def test_messages_come_through_the_wire_and_other_lines_are_none():
    from calibrate.service.jobs.fit_spec import message_line

    published = Published(name="0.41", path="/a path/é\n")
    assert read_message(message_line(published).encode()) == published
    for line in (b"", b"hello", b"{}", b'{"kind": "other"}', b'{"kind": "phase"}', b"\xff"):
        assert read_message(line) is None
