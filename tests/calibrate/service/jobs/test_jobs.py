"""Jobs with real processes, a real database and registry; what the processes do is scripted."""

import asyncio
import errno
import json
import os
import shutil
from pathlib import Path

import psutil
import pytest

from calibrate.service.problems import Problem
from tests.calibrate.service.jobs.open_jobs import (
    CALLER,
    make_source,
    new_fit,
    open_jobs,
    steps_of,
)

KEPT = {"spec.json", "log.txt"}


def has_ended(pid: int) -> bool:
    """Also if its parent has not asked for it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def is_clean(state: Path, job_id: str) -> bool:
    """Whether nothing but the specification and the log stays of a job, soon after its end."""
    async with asyncio.timeout(5):
        while {entry.name for entry in (state / "fits" / job_id).iterdir()} != KEPT:
            await asyncio.sleep(0.01)
    return True


async def test_a_fit_is_registered_and_proposed_and_leaves_no_work(tmp_path: Path):
    source = make_source(tmp_path, steps=3)
    async with open_jobs(tmp_path) as opened:
        job = await opened.jobs.submit(new_fit(source, settings=["calibrate.epochs=3"]), CALLER)
        assert job.state in ("queued", "running")
        job = await opened.end_of(job.id)
        assert (job.state, job.error, job.starts) == ("succeeded", None, 1)
        (classifier,) = opened.registry.list()
        assert classifier.name == "run-0"
        assert classifier.created_by == "ada"
        assert job.id in classifier.source
        assert [(one.version, one.proposed) for one in job.classifiers] == [(1, True)]
        assert opened.registry.aliases() == {"challenger": 1}
        assert opened.jobs.progress_of(job) == job.progress
        assert job.progress is not None
        assert (job.progress["phase"], job.progress["total"]) == ("training", 3)
        assert await is_clean(opened.state, job.id)
    spec = json.loads((source / "spec.json").read_text())
    assert spec["settings"] == ["calibrate.epochs=3"]
    assert steps_of(source) == ["0.1", "0.2", "0.3"]


async def test_a_fit_that_is_not_to_be_proposed_is_registered_alone(tmp_path: Path):
    source = make_source(tmp_path)
    async with open_jobs(tmp_path) as opened:
        job = await opened.jobs.submit(new_fit(source, propose=False), CALLER)
        job = await opened.end_of(job.id)
        assert [one.proposed for one in job.classifiers] == [False]
        assert opened.registry.aliases() == {}


async def test_a_fit_to_the_champion_s_bits_is_no_challenger_of_it(tmp_path: Path):
    source = make_source(tmp_path)
    async with open_jobs(tmp_path) as opened:
        registered = opened.registry.register(source / "classifiers/0", source="a run", by="ada")
        opened.registry.promote(registered.version, by="ada", expected_champion=None, reason="")
        job = await opened.jobs.submit(new_fit(source), CALLER)
        job = await opened.end_of(job.id)
        assert job.state == "succeeded"
        assert [(one.version, one.proposed) for one in job.classifiers] == [(1, False)]
        assert opened.registry.aliases() == {"champion": 1}


async def test_fits_wait_for_their_turn_in_the_order_they_came(tmp_path: Path):
    sources = [make_source(tmp_path, f"run{number}", step_s=0.03) for number in range(3)]
    async with open_jobs(tmp_path, max_fits=1) as opened:
        jobs = [await opened.jobs.submit(new_fit(source), CALLER) for source in sources]
        assert [(await opened.jobs.get(job.id)).state for job in jobs[1:]] == ["queued"] * 2
        ended = [await opened.end_of(job.id) for job in jobs]
        times = [(job.started_at, job.ended_at) for job in ended]
        assert times == sorted(times)
        assert [job.classifiers[0].version for job in ended] == [1, 2, 3]
        page = await opened.jobs.page(limit=2)
        assert [job.id for job in page] == [jobs[2].id, jobs[1].id], "the newest first"
        rest = await opened.jobs.page(limit=2, before=page[-1].number)
        assert [job.id for job in rest] == [jobs[0].id]


async def test_a_process_that_died_is_started_again_from_its_checkpoint(tmp_path: Path):
    source = make_source(tmp_path, steps=5, dies_at=3)
    async with open_jobs(tmp_path) as opened:
        job = await opened.jobs.submit(new_fit(source), CALLER)
        job = await opened.end_of(job.id)
        assert (job.state, job.starts) == ("succeeded", 2)
    assert steps_of(source) == ["0.1", "0.2", "0.3", "0.4", "0.5"]


async def test_a_process_that_always_dies_fails_the_job_with_its_last_words(tmp_path: Path):
    source = make_source(tmp_path, steps=5, dies_at=2, dies_always=True)
    other = make_source(tmp_path, "other")
    async with open_jobs(tmp_path) as opened:
        job = await opened.jobs.submit(new_fit(source), CALLER)
        after = await opened.jobs.submit(new_fit(other), CALLER)
        job = await opened.end_of(job.id)
        assert (job.state, job.error, job.starts) == ("failed", "WorkerDied", 3)
        assert job.detail is not None
        assert "status -9" in job.detail
        assert "out of memory" in job.detail
        assert "3 times in a row" in job.detail
        assert await is_clean(opened.state, job.id)
        assert (await opened.end_of(after.id)).state == "succeeded", "others are not held up"
        assert [one.name for one in opened.registry.list()] == ["other-0"]


async def test_what_the_order_has_caused_is_not_tried_again(tmp_path: Path):
    source = make_source(tmp_path, fails="no traces for train")
    async with open_jobs(tmp_path) as opened:
        job = await opened.jobs.submit(new_fit(source), CALLER)
        job = await opened.end_of(job.id)
        ended = (job.state, job.error, job.detail, job.starts)
        assert ended == ("failed", "DataError", "no traces for train", 1)


async def test_a_fit_that_runs_is_cancelled_with_all_its_processes(tmp_path: Path):
    source = make_source(tmp_path, steps=1000, step_s=0.02, has_child=True)
    async with open_jobs(tmp_path) as opened:
        job = await opened.jobs.submit(new_fit(source), CALLER)
        await opened.until(job.id, lambda one: len(steps_of(source)) > 2)
        again = await opened.jobs.cancel(job.id, CALLER)
        assert again.cancelled_by == "ada"
        job = await opened.end_of(job.id)
        assert (job.state, job.classifiers) == ("cancelled", ())
        assert (await opened.jobs.cancel(job.id, CALLER)).state == "cancelled", "a second time"
        assert await is_clean(opened.state, job.id)
        assert has_ended(int((source / "child").read_text()))
        assert not opened.registry.list()


async def test_a_process_that_does_not_listen_is_killed(tmp_path: Path):
    source = make_source(tmp_path, steps=1000, step_s=0.02, is_deaf=True)
    async with open_jobs(tmp_path, stop_s=0.2) as opened:
        job = await opened.jobs.submit(new_fit(source), CALLER)
        await opened.until(job.id, lambda one: len(steps_of(source)) > 2)
        await opened.jobs.cancel(job.id, CALLER)
        assert (await opened.end_of(job.id)).state == "cancelled"
        assert has_ended(json.loads((source / "spec.json").read_text())["pid"])


async def test_a_fit_that_waits_is_cancelled_at_once_and_an_ended_one_not(tmp_path: Path):
    first, second = (make_source(tmp_path, name, step_s=0.05) for name in ("a", "b"))
    async with open_jobs(tmp_path) as opened:
        runs = await opened.jobs.submit(new_fit(first), CALLER)
        waits = await opened.jobs.submit(new_fit(second), CALLER)
        assert (await opened.jobs.cancel(waits.id, CALLER)).state == "cancelled"
        await opened.end_of(runs.id)
        with pytest.raises(Problem) as caught:
            await opened.jobs.cancel(runs.id, CALLER)
        assert (caught.value.status, caught.value.slug) == (409, "fit-ended")
        with pytest.raises(Problem) as caught:
            await opened.jobs.cancel("fit_0", CALLER)
        assert caught.value.status == 404
    assert steps_of(second) == []


async def test_a_stop_of_the_service_pauses_a_fit_and_the_next_start_goes_on(tmp_path: Path):
    source = make_source(tmp_path, steps=30, step_s=0.02)
    async with open_jobs(tmp_path) as opened:
        job = await opened.jobs.submit(new_fit(source), CALLER)
        await opened.until(job.id, lambda one: len(steps_of(source)) > 5)
        await opened.jobs.close()
        assert (await opened.jobs.get(job.id)).state == "paused"
    before = len(steps_of(source))
    assert 5 < before < 30
    async with open_jobs(tmp_path) as opened:
        job = await opened.end_of(job.id)
        assert (job.state, job.starts) == ("succeeded", 2)
    assert steps_of(source) == [f"0.{step}" for step in range(1, 31)], "none twice"


async def test_a_watcher_registers_each_better_candidate_and_takes_no_fit_s_place(tmp_path: Path):
    run, other = make_source(tmp_path, candidates=3), make_source(tmp_path, "other")
    async with open_jobs(tmp_path, max_fits=1) as opened:
        watcher = await opened.jobs.submit(new_fit(run, watch=True), CALLER)
        await opened.until(watcher.id, lambda one: len(one.classifiers) == 3)
        fit = await opened.jobs.submit(new_fit(other, propose=False), CALLER)
        assert (await opened.end_of(fit.id)).state == "succeeded", "beside the standing job"
        assert (await opened.jobs.get(watcher.id)).state == "running"
        assert opened.registry.aliases() == {"challenger": 3}
        (run / "ended").touch()
        watcher = await opened.end_of(watcher.id)
        assert watcher.state == "succeeded"
        names = [(one.name, one.version) for one in watcher.classifiers]
        assert names == [("0.0", 1), ("0.1", 2), ("0.2", 3)]


async def test_a_watcher_goes_on_after_a_restart_and_proposes_nothing_again(tmp_path: Path):
    run = make_source(tmp_path, candidates=2)
    async with open_jobs(tmp_path) as opened:
        watcher = await opened.jobs.submit(new_fit(run, watch=True), CALLER)
        await opened.until(watcher.id, lambda one: len(one.classifiers) == 2)
        opened.registry.set_challenger(1, by="a person, who prefers it")
    async with open_jobs(tmp_path) as opened:
        await opened.until(watcher.id, lambda one: one.starts == 2 and one.state == "running")
        await asyncio.sleep(0.3)  # it says again what it has published
        assert opened.registry.aliases() == {"challenger": 1}
        await opened.jobs.cancel(watcher.id, CALLER)
        assert (await opened.end_of(watcher.id)).state == "cancelled"
        assert len(opened.registry.list()) == 2, "what it registered stays"


async def test_fits_have_their_share_of_the_machine(tmp_path: Path):
    source = make_source(tmp_path)
    async with open_jobs(tmp_path, fit_cpus=1, fit_gpus=(2, 3)) as opened:
        job = await opened.jobs.submit(new_fit(source), CALLER)
        await opened.end_of(job.id)
    environment = json.loads((source / "environment.json").read_text())
    spec = json.loads((source / "spec.json").read_text())
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert spec["cores"] == [max(os.sched_getaffinity(0))]
    assert spec["gpus"] == [2, 3]


async def test_a_damaged_classifier_fails_the_job_and_registers_nothing(tmp_path: Path):
    source = make_source(tmp_path)
    (source / "classifiers/0/calibration.json").write_text("{}")
    async with open_jobs(tmp_path) as opened:
        job = await opened.jobs.submit(new_fit(source), CALLER)
        job = await opened.end_of(job.id)
        assert (job.state, job.error) == ("failed", "DataError")
        assert not opened.registry.list()
        assert await is_clean(opened.state, job.id)


async def test_too_many_waiting_fits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("calibrate.service.jobs.jobs._MAX_QUEUED", 1)
    source = make_source(tmp_path, steps=1000, step_s=0.05)
    async with open_jobs(tmp_path) as opened:
        for _ in range(2):
            await opened.jobs.submit(new_fit(source), CALLER)
        with pytest.raises(Problem) as caught:
            await opened.jobs.submit(new_fit(source), CALLER)
        assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "60"})


async def test_each_step_of_a_job_is_in_the_audit_log(tmp_path: Path):
    good, bad = make_source(tmp_path), make_source(tmp_path, "bad", fails="no traces")
    async with open_jobs(tmp_path) as opened:
        for source in (good, bad):
            job = await opened.jobs.submit(new_fit(source), CALLER)
            await opened.end_of(job.id)
        rows = opened.audit.page(limit=100)[::-1]
        assert opened.audit.verify() is None
        assert [row.action for row in rows if row.action.startswith("fit.")] == [
            "fit.submitted",
            "fit.succeeded",
            "fit.submitted",
            "fit.failed",
        ]


async def test_a_full_disk_fails_the_job_whole_and_a_later_fit_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = make_source(tmp_path)
    async with open_jobs(tmp_path) as opened:
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "copyfile", full)
            first = await opened.jobs.submit(new_fit(source), CALLER)
            first = await opened.end_of(first.id)
        assert (first.state, first.error) == ("failed", "DiskFull")
        assert "is full" in str(first.detail)
        assert await is_clean(opened.state, first.id), "what it took is free again"
        assert not list((opened.state / "classifiers").iterdir())
        second = await opened.jobs.submit(new_fit(source), CALLER)
        assert (await opened.end_of(second.id)).state == "succeeded"
