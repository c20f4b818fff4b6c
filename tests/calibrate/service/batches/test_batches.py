import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from calibrate.service.batches.batches import Batches
from calibrate.service.batches.journal import BatchRecord
from calibrate.service.problems import Problem
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database
from tests.calibrate.service.batches.line_files import ADMIN, ANN, BEN, line, lines, stream
from tests.calibrate.service.batches.scripted import (
    ScriptedLines,
    num_decided,
    open_database,
    running,
)

ROOT = Path(__file__).parents[4]


@pytest.fixture
def database(tmp_path: Path):
    opened = open_database(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def classifier(database: Database) -> ScriptedLines:
    return ScriptedLines(database)


async def begin(batches: Batches, content: bytes, **metadata: str) -> BatchRecord:
    file = await batches.files.upload(stream(content, 100_000), "b.jsonl", ANN)
    return await batches.create(file.id, ANN, metadata or None)


async def ended(batches: Batches, batch: BatchRecord) -> BatchRecord:
    async with asyncio.timeout(20):
        while (now := await batches.get(batch.id, ADMIN)).status in (
            "in_progress",
            "finalizing",
            "cancelling",
        ):
            await asyncio.sleep(0.005)
    return now


def rows(batches: Batches, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(text) for text in batches.files.path_of(file_id).read_text().splitlines()]


async def test_a_batch_is_answered_in_the_order_of_its_lines(
    tmp_path: Path, database: Database, classifier: ScriptedLines
):
    async with running(tmp_path, classifier, database) as batches:
        batch = await begin(batches, lines(30), team="labels")
        done = await ended(batches, batch)
        values = done.as_json()
        output = rows(batches, values["output_file_id"])
    assert (values["object"], values["status"], values["endpoint"]) == (
        "batch",
        "completed",
        "/v1/classify",
    )
    assert values["request_counts"] == {"total": 30, "completed": 30, "failed": 0}
    assert values["metadata"] == {"team": "labels"}
    assert values["error_file_id"] is None
    assert values["created_at"] <= values["finalizing_at"] <= values["completed_at"]
    assert [row["custom_id"] for row in output] == [f"clip-{n}" for n in range(30)]
    assert output[0]["response"]["status_code"] == 200
    assert output[0]["response"]["body"] == {"label": "clip-0.mp4"}
    assert output[0]["error"] is None
    assert len({row["id"] for row in output}) == 30
    assert classifier.callers == {ANN.token_id}


async def test_a_request_that_fails_is_in_the_error_file_with_its_problem(
    tmp_path: Path, database: Database, classifier: ScriptedLines
):
    classifier.problems["clip-1.mp4"] = [Problem(404, "no-such-clip", "there is no such file")]
    classifier.errors["clip-2.mp4"] = [ZeroDivisionError()]
    async with running(tmp_path, classifier, database) as batches:
        done = await ended(batches, await begin(batches, lines(4)))
        errors = rows(batches, done.as_json()["error_file_id"])
        output = rows(batches, done.as_json()["output_file_id"])
    assert (done.status, done.completed, done.failed) == ("completed", 2, 2)
    assert [row["custom_id"] for row in errors] == ["clip-1", "clip-2"]
    assert errors[0]["response"]["status_code"] == 404
    assert errors[0]["response"]["body"]["type"] == "urn:deepintuit:problem:no-such-clip"
    assert errors[1]["response"]["status_code"] == 500
    assert [row["custom_id"] for row in output] == ["clip-0", "clip-3"]


async def test_a_line_refused_for_want_of_room_is_asked_again_until_it_is_answered(
    tmp_path: Path, database: Database, classifier: ScriptedLines
):
    full = Problem(429, "queue-full", "256 wait", headers={"Retry-After": "0"})
    classifier.problems["clip-0.mp4"] = [full, Problem(503, "engine-unavailable", "restarts"), full]
    async with running(tmp_path, classifier, database) as batches:
        done = await ended(batches, await begin(batches, lines(2)))
    assert (done.completed, done.failed) == (2, 0)
    assert classifier.asked.count("clip-0.mp4") == 4


async def test_a_full_disk_is_waited_for(
    tmp_path: Path,
    database: Database,
    classifier: ScriptedLines,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("calibrate.service.batches.batches._DISK_S", 0.01)
    classifier.errors["clip-3.mp4"] = [sqlite3.OperationalError("database or disk is full")]
    async with running(tmp_path, classifier, database) as batches:
        done = await ended(batches, await begin(batches, lines(9)))
    assert (done.status, done.completed, done.failed) == ("completed", 9, 0)
    assert num_decided(database) == (9, 9)


async def test_batches_take_turns_and_share_one_limit(
    tmp_path: Path, database: Database, classifier: ScriptedLines
):
    classifier.gate = asyncio.Event()
    late = b"".join(json.dumps(line(f"late-{n}")).encode() + b"\n" for n in range(3))
    async with running(tmp_path, classifier, database, in_flight=2) as batches:
        first = await begin(batches, lines(60))
        while classifier.now < 2:
            await asyncio.sleep(0.005)
        second = await begin(batches, late)
        classifier.gate.set()
        assert (await ended(batches, second)).completed == 3
        assert (await batches.get(first.id, ANN)).completed < 30
        assert (await ended(batches, first)).completed == 60
    assert classifier.most == 2


async def test_a_cancelled_batch_keeps_what_was_answered(
    tmp_path: Path, database: Database, classifier: ScriptedLines
):
    classifier.gate = asyncio.Event()
    async with running(tmp_path, classifier, database) as batches:
        batch = await begin(batches, lines(50))
        while classifier.now < 4:
            await asyncio.sleep(0.005)
        with pytest.raises(Problem, match="no batch"):
            await batches.cancel(batch.id, BEN)
        assert (await batches.cancel(batch.id, ANN)).status == "cancelling"
        assert (await batches.cancel(batch.id, ANN)).status == "cancelling"
        classifier.gate.set()
        done = await ended(batches, batch)
        assert (done.status, done.completed, done.failed) == ("cancelled", 4, 0)
        assert len(rows(batches, done.as_json()["output_file_id"])) == 4
        with pytest.raises(Problem, match="is cancelled") as raised:
            await batches.cancel(batch.id, ANN)
    assert raised.value.status == 409
    assert len(classifier.asked) == 4
    actions = [(row.actor, row.action) for row in Audit(database).page(limit=9)]
    assert sorted(actions) == [("Ann", "batch.cancelled"), ("Ann", "batch.created")]


async def test_requests_that_were_not_answered_in_time_are_named_as_expired(
    tmp_path: Path, database: Database, classifier: ScriptedLines
):
    classifier.gate = asyncio.Event()
    async with running(tmp_path, classifier, database, in_flight=2) as batches:
        batch = await begin(batches, lines(5))
        while classifier.now < 2:
            await asyncio.sleep(0.005)
    with database.write() as connection:
        connection.execute("UPDATE batches SET expires_at = ?", (int(time.time()) - 1,))
    async with running(tmp_path, classifier, database) as batches:
        done = await ended(batches, batch)
        errors = rows(batches, done.as_json()["error_file_id"])
    assert (done.status, done.completed, done.failed) == ("expired", 0, 5)
    assert done.as_json()["output_file_id"] is None
    assert [row["error"]["code"] for row in errors] == ["batch_expired"] * 5
    assert errors[0]["response"] is None


async def test_a_pause_answers_what_was_asked_and_the_next_start_goes_on(
    tmp_path: Path, database: Database, classifier: ScriptedLines
):
    classifier.gate = asyncio.Event()
    async with running(tmp_path, classifier, database) as batches:
        batch = await begin(batches, lines(40))
        while classifier.now < 4:
            await asyncio.sleep(0.005)
        pause = asyncio.create_task(batches.pause())
        await asyncio.sleep(0)
        classifier.gate.set()
        await pause
        paused = await batches.get(batch.id, ANN)
        assert (paused.status, paused.completed) == ("in_progress", 4)
        with pytest.raises(Problem, match="the service ends"):
            await batches.create(batch.input_file_id, ANN, None)
    async with running(tmp_path, classifier, database) as batches:
        done = await ended(batches, batch)
    assert (done.status, done.completed) == ("completed", 40)
    assert sorted(classifier.asked) == sorted(f"clip-{n}.mp4" for n in range(40))


async def test_a_pause_does_not_wait_for_lines_that_are_to_be_asked_later(
    tmp_path: Path, database: Database, classifier: ScriptedLines
):
    for name in ("clip-0.mp4", "clip-1.mp4"):
        late = Problem(503, "engine-unavailable", "restarts", headers={"Retry-After": "30"})
        classifier.problems[name] = [late] * 9
    async with running(tmp_path, classifier, database) as batches:
        batch = await begin(batches, lines(2))
        while len(classifier.asked) < 2:
            await asyncio.sleep(0.005)
        async with asyncio.timeout(5):
            await batches.pause()
        assert (await batches.get(batch.id, ANN)).as_json()["status"] == "in_progress"


async def test_an_input_that_was_damaged_since_fails_the_batch_with_the_fault(
    tmp_path: Path, database: Database, classifier: ScriptedLines
):
    async with running(tmp_path, classifier, database) as batches:
        file = await batches.files.upload(stream(lines(3)), "b.jsonl", ANN)
        batches.files.path_of(file.id).write_bytes(b"{}\n")
        done = await ended(batches, await batches.create(file.id, ANN, None))
        assert done.status == "failed"
        assert done.as_json()["errors"]["data"][0]["line"] == 1
        batches.files.path_of(file.id).unlink()
        gone = await ended(batches, await batches.create(file.id, ANN, None))
        assert gone.as_json()["errors"]["data"][0]["code"] == "no_input_file"


async def test_a_batch_that_ends_by_a_bug_is_in_the_log_and_the_next_start_goes_on(
    tmp_path: Path,
    database: Database,
    classifier: ScriptedLines,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    async with running(tmp_path, classifier, database) as batches:
        monkeypatch.setattr(batches.files, "write_output", broken)
        batch = await begin(batches, lines(3))
        while "a bug" not in caplog.text:
            await asyncio.sleep(0.005)
        await batches.pause()
        assert batch.id in caplog.text
    async with running(tmp_path, classifier, database) as batches:
        assert (await ended(batches, batch)).completed == 3
    assert len(classifier.asked) == 3


async def test_an_output_is_no_input(tmp_path: Path, database: Database, classifier: ScriptedLines):
    async with running(tmp_path, classifier, database) as batches:
        done = await ended(batches, await begin(batches, lines(1)))
        with pytest.raises(Problem, match="is an output") as raised:
            await batches.create(done.output_file_id, ANN, None)
        with pytest.raises(Problem, match="no file"):
            await batches.create(done.input_file_id, BEN, None)
    assert raised.value.status == 400


async def test_pages_of_batches_are_the_callers_own(
    tmp_path: Path, database: Database, classifier: ScriptedLines
):
    async with running(tmp_path, classifier, database) as batches:
        ids = [(await begin(batches, lines(1))).id for _ in range(3)]
        first, more = await batches.page(ANN, after=None, limit=2)
        rest, end = await batches.page(ANN, after=first[-1].id, limit=2)
        assert [batch.id for batch in first + rest] == ids[::-1]
        assert (more, end) == (True, False)
        assert await batches.page(BEN, after=None, limit=2) == ([], False)
        with pytest.raises(Problem, match="there is no batch"):
            await batches.page(BEN, after=first[-1].id, limit=2)


async def test_kills_lose_no_line_and_double_none(tmp_path: Path):
    database = open_database(tmp_path)
    blocked = ScriptedLines(database)
    blocked.gate = asyncio.Event()
    async with running(tmp_path, blocked, database) as batches:
        ids = [(await begin(batches, lines(count))).id for count in (400, 150)]
    database.close()
    looking = open_database(tmp_path)
    command = [sys.executable, "-m", "tests.calibrate.service.batches.scripted", str(tmp_path)]
    draw = random.Random(1)
    for goal in (*sorted(draw.randrange(20, 530) for _ in range(5)), None):
        with subprocess.Popen(command, cwd=ROOT) as process:
            while goal is not None and process.poll() is None and num_decided(looking)[0] < goal:
                time.sleep(draw.random() / 100)
            if goal is not None:
                process.kill()
    assert process.returncode == 0
    looking.close()
    database = open_database(tmp_path)
    async with running(tmp_path, blocked, database) as batches:
        for batch_id, count in zip(ids, (400, 150), strict=True):
            done = await batches.get(batch_id, ANN)
            output = rows(batches, done.as_json()["output_file_id"])
            assert (done.status, done.completed, done.failed) == ("completed", count, 0)
            assert [row["custom_id"] for row in output] == [f"clip-{n}" for n in range(count)]
    assert num_decided(database) == (550, 550)
    database.close()
