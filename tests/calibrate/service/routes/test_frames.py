"""Frames and clips over HTTP, by the real inspector."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from calibrate.service.caller import Caller
from calibrate.service.serving.serving import Answered
from cluster.serving.inspector import PoolInspector
from tests.calibrate.service.deciding import make_calibration, make_evidence
from tests.calibrate.service.fakes import publish_tiny
from tests.calibrate.service.running import Running, make_config, make_parts, running
from tests.video.conftest import write_clip


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    inspector = PoolInspector(max_frames=1000, max_pixels=10**6)
    config = make_config(tmp_path, roots=[tmp_path], audit_share=0.0)
    with running(config, make_parts(inspector=inspector)) as service:
        yield service


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, headers=service.headers("read")) as client:
        yield client


def decided(running: Running, folder: Path, path: Path, *, by_path: bool = False) -> dict[str, Any]:
    """A decision about a clip, as a request makes it."""
    service = running.service
    published = publish_tiny(folder / "published", calibration=make_calibration())
    classifier = service.registry.register(published.path, source="a test", by="a test")

    async def stream() -> AsyncIterator[bytes]:
        yield path.read_bytes()

    async def decide() -> dict[str, Any]:
        coming = (
            service.intake.from_path(str(path))
            if by_path
            else service.intake.from_upload(stream(), path.name)
        )
        record = await service.decisions.decide(
            Answered(classifier=classifier, evidence=make_evidence()),
            await coming,
            sample_id="a",
            window=None,
            columns={},
            caller=Caller(token_id="tok_1", name="ada", scopes=frozenset({"classify"})),
            request_id="req_1",
        )
        return record.as_json()

    return asyncio.run_coroutine_threadsafe(decide(), running.loop).result(30)


def test_a_frame_of_a_decision_is_the_one_of_its_number(
    service: Running, client: httpx.Client, tmp_path: Path
) -> None:
    record = decided(service, tmp_path, write_clip(tmp_path / "a.mp4", frames=20))
    assert record["clip"]["frames"] == [0, 8, 16]
    for number in record["clip"]["frames"]:
        answer = client.get(f"/v1/decisions/{record['id']}/frames/{number}.png")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        picture = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert int(picture[40, 40, 0]) == pytest.approx(10 * number, abs=4)
    assert client.get(f"/v1/decisions/{record['id']}/frames/7.png").status_code == 404
    assert client.get(f"/v1/decisions/{record['id']}/frames/x.png").status_code == 422
    assert client.get("/v1/decisions/dec_none/frames/0.png").status_code == 404


def test_a_clip_is_sent_whole_or_the_part_that_a_player_asks_for(
    service: Running, client: httpx.Client, tmp_path: Path
) -> None:
    path = write_clip(tmp_path / "a.mp4")
    data, record = path.read_bytes(), decided(service, tmp_path, path)
    url = f"/v1/clips/{record['clip']['video_hash']}"
    whole = client.get(url)
    assert (whole.content, whole.headers["content-type"]) == (data, "video/mp4")
    assert whole.headers["content-disposition"].startswith("inline")
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in whole.headers["content-security-policy"]
    part = client.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, data[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(data)}"
    beyond = client.get(url, headers={"Range": f"bytes={len(data)}-"})
    assert (beyond.status_code, beyond.json()["title"]) == (416, "No such part")
    assert beyond.headers["content-range"] == f"bytes */{len(data)}"
    for odd in ("bytes=x", "bytes=9-1", "seconds=1-2", "bytes", "bytes=1-2,4-5," + "7-8," * 500):
        assert client.get(url, headers={"Range": odd}).status_code in (200, 206)


def test_a_clip_of_a_path_is_sent_from_there_while_it_is_the_same(
    service: Running, client: httpx.Client, tmp_path: Path
) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=20)
    data, record = path.read_bytes(), decided(service, tmp_path, path, by_path=True)
    url = f"/v1/clips/{record['clip']['video_hash']}"
    assert client.get(url).content == data
    assert client.get(f"/v1/decisions/{record['id']}/frames/8.png").status_code == 200
    write_clip(path, frames=21)
    assert client.get(url).status_code == 409


def test_a_clip_that_never_came_or_whose_hash_is_none_is_not_there(client: httpx.Client) -> None:
    assert client.get(f"/v1/clips/{hashlib.sha256().hexdigest()}").status_code == 404
    for name in ("..%2f..%2fservice.sqlite", "A" * 64, "%00", "x"):
        assert client.get(f"/v1/clips/{name}").status_code in (404, 422)


def test_a_deleted_clip_is_gone_with_a_row_in_the_audit_log(
    service: Running, client: httpx.Client, tmp_path: Path
) -> None:
    record = decided(service, tmp_path, write_clip(tmp_path / "a.mp4", frames=20))
    url = f"/v1/clips/{record['clip']['video_hash']}"
    frame = f"/v1/decisions/{record['id']}/frames/0.png"
    assert client.get(frame).status_code == 200
    assert client.delete(url).status_code == 403
    admin = service.headers("admin")
    assert client.delete(url, headers=admin).status_code == 204
    assert client.delete(url, headers=admin).status_code == 404
    assert (client.get(url).status_code, client.get(frame).status_code) == (404, 410)
    (row,) = service.service.audit.page(limit=9, action="clip.deleted")
    assert row.subject == url.removeprefix("/v1/")


def test_frames_and_clips_need_the_scope_read(service: Running, tmp_path: Path) -> None:
    record = decided(service, tmp_path, write_clip(tmp_path / "a.mp4", frames=20))
    for headers, status in ((service.headers("classify"), 403), ({}, 401)):
        with httpx.Client(base_url=service.url, headers=headers) as client:
            for url in (
                f"/v1/clips/{record['clip']['video_hash']}",
                f"/v1/decisions/{record['id']}/frames/0.png",
            ):
                assert client.get(url).status_code == status
