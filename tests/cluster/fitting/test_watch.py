"""The watcher beside a run that is written step by step. The fit is scripted: it keeps the weights
that it was given, or raises."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.fitting.fit_work import work_folder
from cluster.fitting.watch import CandidateFit, Watcher, WatchSummary
from cluster.fitting.watch_log import Outcome, WatchLog, only_watcher
from cluster.fitting.watch_weights import Saved, WatchedStage
from cluster.status.heartbeat import State
from cluster.status.run_status import read_status
from tests.cluster.fitting.scripted_runs import ScriptedRun, recipe
from tests.groups import make_group, make_sample, make_trace
from wire.errors import ConfigError, DataError
from wire.types import Purpose, Split


def weights_of(watched: WatchedStage, weights: Saved, folder: Path) -> Path:
    """Stands in for the export: the text that a scripted checkpoint has as weights."""
    if not weights.is_checkpoint:
        return weights.folder
    folder.mkdir(parents=True)
    shutil.copy2(weights.folder / "rank-00000-000.safetensors", folder / "weights")
    return folder


class Fits:
    """A fitter that publishes the weights' text; ``before``: what happens while it works."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.orders: list[CandidateFit] = []
        self.before: Callable[[CandidateFit], Any] = lambda order: None

    async def __call__(self, order: CandidateFit) -> str:
        self.steps.append(order.step)
        self.orders.append(order)
        await asyncio.sleep(0)
        self.before(order)
        partial = order.out.with_name(f".{order.out.name}.partial")
        partial.mkdir()
        text = (order.model / "weights").read_text() if order.step else str(order.model)
        (partial / "weights").write_text(text)
        partial.rename(order.out)
        return "policy"


def watcher(run: ScriptedRun, out: Path, fits: Fits, lines: list[str] | None = None) -> Watcher:
    out.mkdir(exist_ok=True)

    def state() -> tuple[State, str]:
        status = read_status(run.path, with_size=False)
        return status.state, status.why

    say = (lines if lines is not None else []).append
    return Watcher(
        run.watched, out, fits, state=state, say=say, poll_s=0.01, num_versions=3, export=weights_of
    )


async def watch(run: ScriptedRun, out: Path, fits: Fits | None = None) -> WatchSummary:
    """Until the run has ended."""
    return await asyncio.wait_for(watcher(run, out, fits or Fits()).run(), 20)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")


def outcomes(out: Path) -> dict[int, Outcome]:
    return {one.step: one.outcome for one in WatchLog(out).decisions.values()}


async def test_each_version_that_is_measured_better_is_fitted_while_the_run_goes_on(tmp_path: Path):
    run, out, fits = ScriptedRun(tmp_path / "run"), tmp_path / "out", Fits()
    task = asyncio.create_task(watcher(run, out, fits).run())
    for step, num_right in ((2, 4), (4, 3), (6, 7)):
        run.train(step)
        run.save(step)
        run.validate(step, num_right, ended=False)
        await asyncio.sleep(0.05)
        assert step not in outcomes(out)  # its validation goes on
        run.log(step, {"val/accuracy": num_right / 10, "val/num_clips": 9.0})
        await until(lambda step=step: step in outcomes(out))
    assert not task.done()
    assert (out / "best" / "weights").read_text() == f"weights of {run.version(6)}"
    run.finish()
    summary = await asyncio.wait_for(task, 20)
    assert summary.state is State.FINISHED
    assert fits.steps == [2, 6]
    assert outcomes(out) == {2: Outcome.FITTED, 4: Outcome.NOT_BETTER, 6: Outcome.FITTED}
    best = summary.best
    assert best is not None
    assert (best.step, best.value, best.against) == (6, 7 / 9, str(run.version(2)))
    assert best.difference == pytest.approx(3 / 9)
    assert best.difference_low is not None
    assert best.difference_low < best.difference
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == [
        "best", "candidates", "watch.jsonl",
    ]  # fmt: skip


async def test_of_a_finished_run_the_best_version_is_fitted(tmp_path: Path):
    run = ScriptedRun(tmp_path / "run")
    run.validate(0, 2)
    run.step(2, 5)
    run.finish()
    fits = Fits()
    summary = await watch(run, tmp_path / "out", fits)
    assert summary.num_versions == 2
    assert fits.steps == [2]  # the best of those that were there
    assert outcomes(tmp_path / "out") == {0: Outcome.SUPERSEDED, 2: Outcome.FITTED}
    assert (tmp_path / "out/best/weights").read_text() == f"weights of {run.version(2)}"


async def test_the_weights_that_the_stage_starts_from_are_a_version_too(tmp_path: Path):
    run = ScriptedRun(tmp_path / "run")
    run.validate(0, 6)
    run.step(2, 5)
    run.finish()
    await watch(run, tmp_path / "out", fits := Fits())
    assert fits.steps == [0]
    assert (tmp_path / "out/best/weights").read_text() == str(run.config.model)


async def test_checkpoints_that_the_run_deletes_meanwhile_are_held(tmp_path: Path):
    """keep_last = 1: while the first candidate is fitted, the run goes on by two steps."""
    run, out, fits = ScriptedRun(tmp_path / "run"), tmp_path / "out", Fits()
    go_on = asyncio.Event()

    class Slow(Fits):
        async def __call__(self, order: CandidateFit) -> str:
            if order.step == 2:
                await go_on.wait()
            return await super().__call__(order)

    slow = Slow()
    task = asyncio.create_task(watcher(run, out, slow).run())
    run.step(2, 3, keep_last=1)
    await until(lambda: (out / ".work").exists())
    run.step(4, 5, keep_last=1)
    await until(lambda: list((out / ".work").glob(f"checkpoint-{run.version(4)}-*")))
    run.step(6, 8, keep_last=1)
    await until(lambda: outcomes(out).get(4) is Outcome.SUPERSEDED)
    assert [p.name for p in run.checkpoints.iterdir()] == ["step-000006"]
    run.finish()
    go_on.set()
    await asyncio.wait_for(task, 20)
    assert (slow.steps, fits.steps) == ([2, 6], [])
    first = out / "candidates" / str(run.version(2)) / "weights"
    assert first.read_text() == f"weights of {run.version(2)}"
    assert not (out / ".work").exists()


async def test_a_better_version_without_saved_weights_is_said_and_the_next_saved_one_is_fitted(
    tmp_path: Path,
):
    config = recipe(
        grpo={"num_steps": 8, "groups_per_step": 2, "save_every": 4, "validate": {"every": 2}}
    )
    run = ScriptedRun(tmp_path / "run", config)
    run.validate(2, 6)
    run.step(4, 5)
    run.validate(6, 4)
    run.finish()
    fits = Fits()
    await watch(run, tmp_path / "out", fits)
    assert fits.steps == [4]
    decisions = {one.step: one for one in WatchLog(tmp_path / "out").decisions.values()}
    assert decisions[2].outcome is Outcome.NO_WEIGHTS
    assert "step 2 is not saved (grpo.save_every = 4)" in decisions[2].reason
    assert "restore_best" in decisions[2].reason
    assert decisions[6].outcome is Outcome.NOT_BETTER


async def test_the_last_version_waits_for_its_checkpoint_and_is_taken_from_the_stages_model(
    tmp_path: Path,
):
    """The last step is validated before it is saved."""
    run, out = ScriptedRun(tmp_path / "run"), tmp_path / "out"
    run.step(2, 3)
    task = asyncio.create_task(watcher(run, out, fits := Fits()).run())
    await until(lambda: 2 in outcomes(out))
    run.validate(8, 9)
    await asyncio.sleep(0.05)
    assert 8 not in outcomes(out)
    shutil.rmtree(run.checkpoints)  # the stage has finished and keeps none
    model = run.path / "stages/grpo/model"
    model.mkdir(parents=True)
    (model / "weights").write_text("exported")
    left = {"metric": "val/accuracy", "best": 0.9, "best_step": 8, "left_step": 8}
    left |= {"first": 0.3, "last": 0.9, "num_validations": 2}
    (model.parent / "done.json").write_text(json.dumps({"validation": left}))
    run.finish()
    await asyncio.wait_for(task, 20)
    assert fits.steps == [2, 8]
    assert (out / "best/weights").read_text() == "exported"


async def test_a_resumed_run_is_followed_and_what_it_trains_again_are_other_weights(tmp_path: Path):
    run, out = ScriptedRun(tmp_path / "run"), tmp_path / "out"
    run.step(2, 3)
    run.step(4, 9)
    run.die()
    shutil.rmtree(run.checkpoints / "step-000004")  # it was damaged: the resume starts from step 2
    again = run.resumed(2)
    again.step(4, 6)
    again.finish()
    summary = await watch(again, out, fits := Fits())
    # the weights of step 2 were written as two versions
    named = [(0, 3), (1, 3), (1, 4), (1, 5)]
    assert sorted((v.attempt, v.step) for v in fits.orders[-1].learn_from) == named
    decisions = {one.version: one for one in WatchLog(out).decisions.values()}
    lost = decisions[str(run.version(4))]
    assert lost.outcome is Outcome.NO_WEIGHTS
    assert "attempt 1 trained the step again" in lost.reason
    assert summary.best is not None
    assert summary.best.version == str(again.version(4))
    assert (out / "best/weights").read_text() == f"weights of {again.version(4)}"


async def test_a_run_that_dies_is_noticed(tmp_path: Path):
    run = ScriptedRun(tmp_path / "run")
    task = asyncio.create_task(watcher(run, tmp_path / "out", Fits()).run())
    run.step(2, 3)
    await until(lambda: 2 in outcomes(tmp_path / "out"))
    assert not task.done()
    run.die()
    summary = await asyncio.wait_for(task, 20)
    assert summary.state is State.STOPPED
    assert "ended without a word" in summary.why


async def test_a_fit_that_is_refused_is_logged_and_the_next_better_version_is_fitted(
    tmp_path: Path,
):
    run = ScriptedRun(tmp_path / "run")
    run.step(2, 3)
    task = asyncio.create_task(watcher(run, tmp_path / "out", fits := Fits()).run())

    def refuse(order: CandidateFit) -> None:
        if order.step == 2:
            raise DataError("none of 10 clips has a trace")

    fits.before = refuse
    await until(lambda: 2 in outcomes(tmp_path / "out"))
    run.step(4, 2)  # worse than the refused one, but better than none
    run.finish()
    await asyncio.wait_for(task, 20)
    log = WatchLog(tmp_path / "out")
    assert outcomes(tmp_path / "out") == {2: Outcome.FAILED, 4: Outcome.FITTED}
    assert "none of 10 clips" in log.of(Outcome.FAILED)[0].reason


async def test_an_interrupt_ends_the_fit_and_what_it_held_is_fitted_by_the_next_watcher(
    tmp_path: Path,
):
    run, out = ScriptedRun(tmp_path / "run"), tmp_path / "out"
    run.step(2, 3)

    class Endless(Fits):
        async def __call__(self, order: CandidateFit) -> str:
            await asyncio.Event().wait()
            return ""

    task = asyncio.create_task(watcher(run, out, Endless()).run())
    await until(lambda: (out / ".work").exists())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not list((out / ".work").glob("policy-*"))
    assert not outcomes(out)
    shutil.rmtree(run.checkpoints)  # the stage has ended and keeps none: what is held remains
    run.finish()
    await watch(run, out)
    assert outcomes(out) == {2: Outcome.FITTED}
    assert (out / "best/weights").read_text() == f"weights of {run.version(2)}"
    assert not (out / ".work").exists()


async def test_the_fit_of_a_watcher_that_was_killed_finds_its_work_and_no_other_is_left(
    tmp_path: Path,
):
    run, out = ScriptedRun(tmp_path / "run"), tmp_path / "out"
    run.step(2, 3)
    run.finish()
    works = [out / f"candidates/{version}.work" for version in (run.version(2), "0.999")]
    for work in works:
        work.mkdir(parents=True)
        (work / "checkpoint").touch()
    seen = []

    class Resumed(Fits):
        async def __call__(self, order: CandidateFit) -> str:
            seen.append((work_folder(order.out) / "checkpoint").exists())
            return await super().__call__(order)

    await watch(run, out, Resumed())
    assert seen == [True]
    assert not [work for work in works if work.exists()]


async def test_a_watcher_that_starts_anew_fits_nothing_twice_and_ends_what_was_under_way(
    tmp_path: Path,
):
    run, out = ScriptedRun(tmp_path / "run"), tmp_path / "out"
    run.step(2, 3)
    run.step(4, 5)
    run.finish()
    await watch(run, out)
    log = out / "watch.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])  # torn: killed while it was written
    (out / "best").unlink()
    (out / ".work/policy-0.5").mkdir(parents=True)
    before = sorted((out / "candidates").iterdir())
    fits = Fits()
    summary = await watch(run, out, fits)
    assert fits.steps == []
    assert sorted((out / "candidates").iterdir()) == before
    assert summary.best is not None
    assert (out / "best").resolve() == (out / summary.best.candidate).resolve()  # type: ignore[operator]
    assert not (out / ".work").exists()


async def test_the_candidates_of_another_run_are_not_gone_on_with(tmp_path: Path):
    run, out = ScriptedRun(tmp_path / "run"), tmp_path / "out"
    run.step(2, 3)
    run.finish()
    await watch(run, out)
    shutil.rmtree(run.path)
    other = ScriptedRun(tmp_path / "run")
    other.step(2, 3)
    other.finish()
    with pytest.raises(ConfigError, match="candidates of another run"):
        await watch(other, out)


async def test_no_test_clip_is_read(tmp_path: Path):
    """A test group that cannot be read lies in the journal and among the traces, and the recipe's
    manifest is not there at all."""
    run = ScriptedRun(tmp_path / "run")
    sample = make_sample("no such label", split=Split.TEST)
    for name in ("grpo/validation/000002/t", "grpo/evaluation/t"):
        run.append(
            make_group(
                make_trace(),
                group_id=name,
                sample=sample,
                purpose=Purpose.VALIDATION,
                policy_version=run.version(2),
            )
        )
    run.step(2, 3)
    run.finish()
    assert not run.config.data.manifest.exists()
    summary = await watch(run, tmp_path / "out")
    assert summary.best is not None
    assert summary.best.num_clips == 10


def test_one_watcher_works_in_a_folder(tmp_path: Path):
    refused = pytest.raises(ConfigError, match="another watcher")
    with only_watcher(tmp_path), refused, only_watcher(tmp_path):
        pass
    with only_watcher(tmp_path):
        pass


_KILLED = """
import asyncio, sys
from pathlib import Path
from tests.cluster.fitting import test_watch as t
from tests.cluster.fitting.scripted_runs import ScriptedRun

class Killed(t.Fits):
    async def __call__(self, order):
        if order.step == 4:
            print("fits", flush=True)
            await asyncio.Event().wait()
        return await super().__call__(order)

run = ScriptedRun(Path(sys.argv[1]))
run.step(2, 3)
asyncio.run(asyncio.wait_for(t.started(run, Path(sys.argv[2]), Killed()), 60))
"""


async def started(run: ScriptedRun, out: Path, fits: Fits) -> None:
    """Watch, and let the run go on once its first version has been fitted."""
    task = asyncio.create_task(watcher(run, out, fits).run())
    await until(lambda: 2 in outcomes(out))
    run.step(4, 6)
    await task


def test_a_watcher_that_is_killed_amid_a_fit_starts_anew(tmp_path: Path):
    run, out = tmp_path / "run", tmp_path / "out"
    command = [sys.executable, "-c", _KILLED, str(run), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path.cwd())
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"fits\n"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert outcomes(out) == {2: Outcome.FITTED}
    assert (out / ".work").exists()
    shutil.rmtree(run / "checkpoints/grpo/step-000002")  # what is fitted is not needed again
    again = ScriptedRun(run, attempt=1)
    again.finish()
    fits = Fits()
    asyncio.run(watch(again, out, fits))
    assert fits.steps == [4]
    assert outcomes(out) == {2: Outcome.FITTED, 4: Outcome.FITTED}
