"""A form's files go to the clip store as they come; whatever ends the form leaves none behind."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Request

from calibrate.service.routes.clip_form import UploadedClip, clip_form
from calibrate.service.routes.context import MayClassify, ServiceDep
from tests.calibrate.service.running import Running, make_config, running

router = APIRouter()
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
Post = Callable[..., httpx.Response]


@router.post("/v1/forms")
async def forms(
    request: Request, service: ServiceDep, _caller: MayClassify
) -> dict[str, Annotated[Any, None]]:
    """The fields of a form; files named "keep" are admitted."""
    async with clip_form(
        request, service.intake, max_files=3, max_fields=2, max_field_bytes=100
    ) as form:
        values: dict[str, Any] = {}
        for name, value in form.multi_items():
            if not isinstance(value, UploadedClip):
                values[name] = value
            elif name == "keep":
                clip = await service.intake.admit(value.receiving, value.filename or "")
                values[name] = [clip.name, clip.video_hash]
        return values


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    config = make_config(tmp_path, max_clip_bytes=3_000_000)
    with running(config, routers=[router]) as service:
        yield service


@pytest.fixture
def post(service: Running) -> Iterator[Post]:
    with httpx.Client(
        base_url=service.url, headers=service.headers("classify"), timeout=20
    ) as client:
        yield lambda **request: client.post("/v1/forms", **request)


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "state/clips").rglob("*") if path.is_file()]


def test_files_and_fields_come_in_any_order(post: Post, tmp_path: Path) -> None:
    data = bytes(range(256)) * 8_000  # two megabytes: written while it comes
    answer = post(files={"keep": ("../cat.mp4", data)}, data={"id": "a", "text": "b"})
    name, video_hash = answer.json().pop("keep")
    assert answer.json().items() >= {"id": "a", "text": "b"}.items()
    assert name == "cat.mp4"
    (path,) = files(tmp_path)
    assert path.name == video_hash
    assert path.read_bytes() == data


def test_a_file_that_nobody_admits_is_gone(post: Post, tmp_path: Path, service: Running) -> None:
    assert post(files={"drop": ("a.mp4", b"x" * 2_000_000)}).json() == {}
    assert files(tmp_path) == []
    assert service.service.clips.used_bytes == 0


PART = b"--b\r\nContent-Disposition: form-data; "


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        PART + b'name="keep"; filename="a"\r\n\r\nhalf',
        PART + b'filename="a"\r\n\r\nx\r\n--b--',
        PART + b'name="id"\r\n\r\n' + b"x" * 101 + b"\r\n--b--",
        (PART + b'name="id"\r\n\r\nx\r\n') * 3 + b"--b--",
        (PART + b'name="drop"; filename="a"\r\n\r\nx\r\n') * 4 + b"--b--",
        b"--b\r\nbad header\r\n\r\n",
    ],
)
def test_a_faulty_form_is_400_and_leaves_nothing_behind(
    post: Post, tmp_path: Path, service: Running, body: bytes
) -> None:
    whole = PART + b'name="drop"; filename="a"\r\n\r\nx\r\n'
    for content in (body, whole + body):
        answer = post(content=content, headers=FORM)
        assert (answer.status_code, answer.json()["title"]) == (400, "No form"), answer.text
    assert files(tmp_path) == []
    assert service.service.clips.used_bytes == 0


def test_a_form_without_a_boundary_is_400(post: Post) -> None:
    answer = post(content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert (answer.status_code, answer.json()["title"]) == (400, "No form")


def test_a_clip_that_is_too_large_is_refused_before_the_form_ends(
    post: Post, tmp_path: Path
) -> None:
    answer = post(files={"keep": ("a.mp4", b"x" * 3_000_001)})
    assert (answer.status_code, answer.json()["title"]) == (413, "Clip too large")
    assert files(tmp_path) == []


def test_a_client_that_hangs_up_leaves_nothing_behind(
    post: Post, tmp_path: Path, service: Running
) -> None:
    def broken() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="keep"; filename="a"\r\n\r\n'
        yield b"x" * 2_000_000
        raise ConnectionError

    with pytest.raises(ConnectionError):
        post(content=broken(), headers=FORM | {"Content-Length": "2500000"})
    end = time.monotonic() + 10
    while files(tmp_path) or service.service.clips.used_bytes:
        assert time.monotonic() < end
        time.sleep(0.02)
