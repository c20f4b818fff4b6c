"""Files and batches over HTTP, asked by OpenAI's own client."""

import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from calibrate.client.calls import Clip, OnServer, batch_requests
from calibrate.client.client import Client
from tests.calibrate.service.classifying import Classifying, classifying
from tests.calibrate.service.fakes import ScriptedBackend


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Classifying]:
    with classifying(tmp_path) as one:
        yield one


_OPENED: list[openai.OpenAI] = []


@pytest.fixture(autouse=True)
def closed_at_the_end() -> Iterator[None]:
    yield
    while _OPENED:
        _OPENED.pop().close()


def openai_client(service: Classifying, *scopes: Any) -> openai.OpenAI:
    client = openai.OpenAI(
        base_url=f"{service.url}/v1", api_key=service.token(*scopes), max_retries=0
    )
    _OPENED.append(client)
    return client


@contextmanager
def refused(kind: type[openai.APIStatusError], words: str) -> Iterator[None]:
    with pytest.raises(kind) as raised:
        yield
    assert words in raised.value.response.json()["detail"]
    assert words in str(raised.value)


def requests(*paths: Path) -> bytes:
    clips = [Clip(video=OnServer(path=str(path)), id=path.stem) for path in paths]
    return b"".join(json.dumps(row).encode() + b"\n" for row in batch_requests(clips))


def begin(client: openai.OpenAI, content: bytes) -> Any:
    file = client.files.create(file=("clips.jsonl", io.BytesIO(content)), purpose="batch")
    assert (file.bytes, file.filename, file.status) == (len(content), "clips.jsonl", "processed")
    return client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/classify",  # type: ignore[arg-type]
        completion_window="24h",
        metadata={"team": "labels"},
    )


def ended(client: openai.OpenAI, batch_id: str) -> Any:
    end = time.monotonic() + 30
    while (batch := client.batches.retrieve(batch_id)).status in ("in_progress", "finalizing"):
        assert time.monotonic() < end
        time.sleep(0.02)
    return batch


def test_openais_client_runs_a_batch_and_reads_its_answers(service: Classifying):
    paths = [service.clip(f"c{n}.mp4") for n in range(12)]
    bad = service.clip("bad.mp4", b"fail: no moov atom")
    client = openai_client(service, "classify", "read")
    batch = begin(client, requests(*paths, bad, Path("/etc/passwd")))
    assert (batch.object, batch.endpoint, batch.metadata) == (
        "batch",
        "/v1/classify",
        {"team": "labels"},
    )
    done = ended(client, batch.id)
    assert done.status == "completed"
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (14, 12, 2)
    rows = [json.loads(line) for line in client.files.content(done.output_file_id).iter_lines()]
    assert [row["custom_id"] for row in rows] == [path.stem for path in paths]
    body = rows[0]["response"]["body"]
    assert body["label"] in ("abnormal", "normal")
    assert body["versions"]["classifier"] == 1
    errors = [json.loads(line) for line in client.files.content(done.error_file_id).iter_lines()]
    assert [row["response"]["status_code"] for row in errors] == [422, 403]
    assert errors[0]["response"]["body"]["type"] == "urn:deepintuit:problem:clip-failed"
    assert [one.id for one in client.batches.list()] == [batch.id]
    names = {one.purpose: one.filename for one in client.files.list()}
    assert names["batch"] == "clips.jsonl"
    with service.running.service.database.read() as connection:
        kept = connection.execute("SELECT id FROM decisions ORDER BY seq").fetchall()
    assert {row["id"] for row in kept} == {row["response"]["body"]["id"] for row in rows}


def test_a_batch_gives_the_decisions_that_single_requests_give(service: Classifying):
    paths = [service.clip(f"c{n}.mp4") for n in range(5)]
    with Client(service.url, service.token()) as client:
        requests = batch_requests([Clip(video=OnServer(path=str(p)), id=p.stem) for p in paths])
        batch = client.wait_for_batch(client.create_batch(requests).id, poll_s=0.02)
        rows = client.batch_rows(batch)
        single = list(client.classify_many([Clip(video=path, id=path.stem) for path in paths]))
    assert [row["response"]["body"]["probabilities"] for row in rows] == [
        getattr(one, "probabilities", one) for one in single
    ]


def test_a_bad_file_is_refused_with_the_faults_of_its_lines(service: Classifying):
    client = openai_client(service)
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.files.create(file=("b.jsonl", b'{"custom_id": "a"}\nnothing\n'), purpose="batch")
    body: Any = raised.value.response.json()
    assert [(one["line"], one["code"]) for one in body["errors"]] == [
        (1, "invalid_method"),
        (2, "invalid_json_line"),
    ]
    with refused(openai.UnprocessableEntityError, "purpose"):
        client.files.create(file=("b.jsonl", b"{}"), purpose="assistants")
    with refused(openai.NotFoundError, "no file"):
        begin_of_nothing(client)
    assert list(client.files.list()) == []


def begin_of_nothing(client: openai.OpenAI) -> None:
    client.batches.create(
        input_file_id="file-nothing",
        endpoint="/v1/classify",  # type: ignore[arg-type]
        completion_window="24h",
    )


def test_a_cancelled_batch_keeps_its_answers_and_its_file_can_be_deleted(tmp_path: Path):
    backend = ScriptedBackend(delay_s=0.05)
    with classifying(tmp_path, backend=backend, max_in_flight=2) as service:
        paths = [service.clip(f"c{n}.mp4") for n in range(200)]
        client = openai_client(service, "classify")
        batch = begin(client, requests(*paths))
        with refused(openai.ConflictError, batch.id):
            client.files.delete(batch.input_file_id)
        assert client.batches.cancel(batch.id).status == "cancelling"
        end = time.monotonic() + 30
        while (done := client.batches.retrieve(batch.id)).status == "cancelling":
            assert time.monotonic() < end
            time.sleep(0.02)
        assert done.status == "cancelled"
        assert done.request_counts.completed < 200
        assert client.files.delete(batch.input_file_id).deleted
        with refused(openai.ConflictError, "is cancelled"):
            client.batches.cancel(batch.id)


def test_files_and_batches_of_another_token_are_not_there(service: Classifying):
    mine, other = openai_client(service, "classify"), openai_client(service, "classify")
    batch = begin(mine, requests(service.clip("a.mp4")))
    for call in (
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: other.files.retrieve(batch.input_file_id),
        lambda: other.files.content(batch.input_file_id),
        lambda: other.files.delete(batch.input_file_id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    assert list(other.batches.list()) == []
    with pytest.raises(openai.PermissionDeniedError):
        list(openai_client(service, "read").batches.list())


def test_a_single_request_does_not_wait_for_a_batch(tmp_path: Path):
    backend = ScriptedBackend(delay_s=0.05)
    with classifying(tmp_path, backend=backend, max_in_flight=1) as service:
        paths = [service.clip(f"c{n}.mp4") for n in range(60)]
        client = openai_client(service)
        batch = begin(client, requests(*paths))
        with Client(service.url, service.token()) as single:
            start = time.monotonic()
            single.classify(paths[0])
            waited = time.monotonic() - start
        assert client.batches.retrieve(batch.id).request_counts.completed < 50
        assert waited < 1.0


def test_a_stop_leaves_a_batch_that_the_next_start_finishes(tmp_path: Path):
    backend = ScriptedBackend(delay_s=0.02)
    with classifying(tmp_path, backend=backend, max_in_flight=2) as service:
        paths = [service.clip(f"c{n}.mp4") for n in range(100)]
        client = openai_client(service)
        batch = begin(client, requests(*paths))
        while client.batches.retrieve(batch.id).request_counts.completed < 5:
            time.sleep(0.01)
    again = ScriptedBackend()
    with classifying(tmp_path, backend=again) as service:
        done = ended(openai_client(service, "admin"), batch.id)
        assert (done.status, done.request_counts.completed) == ("completed", 100)
    asked = [clip.id for _, clip, _ in (*backend.asked, *again.asked)]
    assert sorted(asked) == sorted(path.stem for path in paths)
