"""200 hostile uploads: each is refused with a typed problem or is a clip; none hangs, leaves a file
behind or has another file opened."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from calibrate.service.intake.clips import AdmittedClip, Intake
from calibrate.service.intake.store import ClipStore
from calibrate.service.problems import Problem
from calibrate.service.service import Service
from cluster.serving.inspector import PoolInspector
from tests.calibrate.service.fakes import ScriptedBackend, publish_tiny
from tests.calibrate.service.running import make_config, make_parts, running
from tests.cluster.serving.hostile import NAMES, Upload, hostile_uploads
from tests.video.conftest import write_clip
from tests.video.openings import openings
from video.config import VideoConfig
from video.pool import DecodePool
from wire.errors import ClipError

_DEADLINE_S = 10.0


async def _in_chunks(data: bytes) -> AsyncIterator[bytes]:
    for place in range(0, len(data), 65_536):
        yield data[place : place + 65_536]


@pytest.mark.slow
async def test_every_hostile_upload_is_refused_or_a_clip_and_opens_no_other_file(
    tmp_path: Path,
) -> None:
    reached: list[object] = []
    server = await asyncio.start_server(lambda *_: reached.append(_), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    (tmp_path / "made").mkdir()
    url = f"http://127.0.0.1:{port}/canary.ts"
    uploads = hostile_uploads(tmp_path / "made", canary="canary.mp4", url=url)
    assert len(uploads) >= 200

    config = make_config(tmp_path, max_pixels=1920 * 1080, max_frames=10_000, max_seconds=600)
    inspector = PoolInspector(
        max_frames=config.max_frames, max_pixels=config.max_pixels, timeout_s=_DEADLINE_S
    )
    store = ClipStore(config.state / "clips", 2**30)
    incoming = config.state / "clips/incoming"
    write_clip(incoming / "canary.mp4")
    with closing(Intake(config, inspector, store)) as intake, openings(incoming) as opened:

        async def send(name: str, data: bytes) -> tuple[str, AdmittedClip | Problem, float]:
            result: AdmittedClip | Problem
            start = time.monotonic()
            try:
                result = await intake.from_upload(_in_chunks(data), name)
            except Problem as problem:
                result = problem
            return name, result, time.monotonic() - start

        results = [await send(*upload) for upload in uploads]
    await inspector.close()
    server.close()

    problems = [(name, one) for name, one, _ in results if isinstance(one, Problem)]
    assert [(name, one) for name, one in problems if not 400 <= one.status < 500] == []
    assert max(seconds for _, _, seconds in results) < _DEADLINE_S + 10
    assert all(str(tmp_path) not in one.detail for _, one in problems)
    counts = Counter(one.slug for _, one in problems)
    limits = {"frames-too-large", "too-many-frames", "clip-too-long"}
    assert limits | {"no-video", "clip-unreadable"} == set(counts), counts
    assert len(problems) > len(uploads) / 2, counts
    assert reached == []
    assert {name for name in opened if not name.endswith(".partial")} == set()
    admitted = [one for _, one, _ in results if isinstance(one, AdmittedClip)]
    left = {path for path in config.state.rglob("*") if path.is_file()}
    assert left == {one.path for one in admitted} | {incoming / "canary.mp4"}
    await asyncio.to_thread(_decode, {one.path for one in admitted})


@pytest.mark.slow
def test_hostile_uploads_over_http_are_answered_or_refused_and_the_service_goes_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "made").mkdir()
    uploads = hostile_uploads(tmp_path / "made", canary="canary.mp4", url="http://127.0.0.1:9/a")
    config = make_config(tmp_path, max_pixels=1920 * 1080, max_frames=10_000, max_seconds=600)
    inspector = PoolInspector(
        max_frames=config.max_frames, max_pixels=config.max_pixels, timeout_s=_DEADLINE_S
    )
    parts = make_parts(backend=ScriptedBackend(), inspector=inspector)

    def prepare(service: Service) -> None:
        published = publish_tiny(tmp_path / "published")
        service.registry.register(published.path, source="a test", by="a test")
        service.registry.promote(1, by="a test", expected_champion=None, reason="")

    with running(config, parts, prepare) as service:
        headers = service.headers("classify")

        def send(upload: Upload) -> httpx.Response:
            name, data = upload
            body = _form(name, data)
            return httpx.post(
                f"{service.url}/v1/classify",
                content=body,
                headers=headers | {"Content-Type": "multipart/form-data; boundary=b"},
                timeout=60,
            )

        assert send(("first.mp4", uploads[-1][1])).status_code == 200
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(send, uploads))
        assert send(("last.mp4", uploads[-1][1])).status_code == 200
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) <= {200, 400, 413, 415, 422}, statuses
    assert statuses[200] >= len(NAMES) / 2
    for answer in answers:
        assert str(tmp_path) not in answer.text
        if answer.status_code != 200:
            assert answer.headers["content-type"] == "application/problem+json"


def _form(name: str, data: bytes) -> bytes:
    """A form as a hostile client writes it: the name is not escaped."""
    head = f'--b\r\nContent-Disposition: form-data; name="video"; filename="{name}"\r\n\r\n'
    return head.encode(errors="surrogatepass") + data + b"\r\n--b--\r\n"


def _decode(paths: set[Path]) -> None:
    """A clip that was let in gives frames or an error, by the decoders of an engine."""
    config = VideoConfig(decode_timeout_s=_DEADLINE_S, decode_memory_gb=2.0)
    with closing(DecodePool(config)) as pool:
        for path in paths:
            start = time.monotonic()
            with suppress(ClipError):
                assert len(pool.decode(path).frames) > 0
            assert time.monotonic() - start < _DEADLINE_S + 10
