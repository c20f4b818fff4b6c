"""Clips are admitted whole, with the hash of their bytes, or refused with nothing left behind."""

import asyncio
import errno
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from calibrate.service.intake.clips import AdmittedClip, Intake
from calibrate.service.intake.roots import OpenedFile
from calibrate.service.intake.store import ClipStore
from calibrate.service.problems import Problem
from calibrate.service.protocols import ClipFacts
from tests.calibrate.service.intake.test_downloads import clip as served_clip
from tests.calibrate.service.intake.test_downloads import resolver, serving
from tests.calibrate.service.running import AnyInspector, make_config
from wire.errors import ClipError, NoVideo

Make = Callable[..., Intake]


class Inspector(AnyInspector):
    """Takes files that begin with "clip"; what follows says how long they are, in seconds."""

    def __init__(self) -> None:
        self.paths: list[Path] = []

    async def inspect(self, path: Path) -> ClipFacts:
        self.paths.append(path)
        data = path.read_bytes()
        if data.startswith(b"hang"):
            await asyncio.sleep(3600)
        if not data.startswith(b"clip"):
            raise NoVideo(f"cannot decode {path}: it is no video")
        return ClipFacts(seconds=float(data[4:]), frames=8, width=32, height=32, codec="h264")


@pytest.fixture
def inspector() -> Inspector:
    return Inspector()


@pytest.fixture
def make(tmp_path: Path, inspector: Inspector) -> Iterator[Make]:
    made: list[Intake] = []

    def intake(**settings: Any) -> Intake:
        config = make_config(tmp_path, **settings)
        store = ClipStore(config.state / "clips", 10_000_000)
        made.append(Intake(config, inspector, store, resolver=resolver("127.0.0.1")))
        return made[-1]

    yield intake
    for one in made:
        one.close()


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "state").rglob("*") if not path.is_dir()]


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def refusal(awaitable: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await awaitable
    return caught.value


async def until(condition: Callable[[], bool]) -> None:
    """A thread that had a hand in it lets go a moment later."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def is_held(intake: Intake, video_hash: str) -> bool:
    return video_hash in intake._clips._holds


async def test_an_upload_is_kept_under_its_hash_with_what_its_container_says(
    make: Make, tmp_path: Path
) -> None:
    clip = await make().from_upload(stream(b"cl", b"ip", b"2.5"), "../cat.mp4")
    assert clip.video_hash == hashlib.sha256(b"clip2.5").hexdigest()
    assert (clip.name, clip.source, clip.facts.seconds) == ("cat.mp4", "upload", 2.5)
    assert clip.path.read_bytes() == b"clip2.5"
    assert files(tmp_path) == [clip.path]


async def test_an_upload_of_megabytes_is_written_in_order(make: Make) -> None:
    data = b"clip" + b"0" * 5_000_000 + b"7"
    parts = [data[place : place + 70_000] for place in range(0, len(data), 70_000)]
    clip = await make().from_upload(stream(*parts), "long.mp4")
    assert clip.path.read_bytes() == data
    assert clip.video_hash == hashlib.sha256(data).hexdigest()


async def test_the_same_bytes_are_looked_at_once(make: Make, inspector: Inspector) -> None:
    intake = make()
    one = await intake.from_upload(stream(b"clip1"), "a.mp4")
    other = await intake.from_upload(stream(b"clip1"), "b.mp4")
    assert one.path == other.path
    assert (one.name, other.name) == ("a.mp4", "b.mp4")
    assert len(inspector.paths) == 1


@pytest.mark.parametrize(
    ("data", "status", "slug"),
    [
        (b"GIF", 415, "no-video"),
        (b"", 415, "no-video"),
        (b"clip4000", 413, "clip-too-long"),
        (b"clip" + b"0" * 200, 413, "clip-too-large"),
    ],
)
async def test_a_refused_upload_leaves_nothing_behind(
    make: Make, tmp_path: Path, data: bytes, status: int, slug: str
) -> None:
    intake = make(max_clip_bytes=200)
    problem = await refusal(intake.from_upload(stream(data), "a\0.mp4"))
    assert (problem.status, problem.slug) == (status, slug)
    assert str(tmp_path) not in problem.detail
    assert files(tmp_path) == []
    assert len(intake._clips) == 0


async def test_an_upload_that_is_too_large_is_refused_before_it_is_read_to_its_end(
    make: Make,
) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"clip" * 1000

    problem = await refusal(make(max_clip_bytes=100_000).from_upload(endless(), "a.mp4"))
    assert problem.status == 413
    assert read <= 26


async def test_a_client_that_goes_away_leaves_nothing_behind(make: Make, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"clip" + b"0" * 2_000_000
        raise ConnectionResetError

    intake = make()
    with pytest.raises(ConnectionResetError):
        await intake.from_upload(broken(), "a.mp4")

    async def stalled() -> AsyncIterator[bytes]:
        yield b"clip" + b"0" * 2_000_000
        await asyncio.sleep(3600)

    task = asyncio.create_task(intake.from_upload(stalled(), "a.mp4"))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert files(tmp_path) == []
    assert intake._clips.used_bytes == 0


async def test_a_clip_is_held_while_a_request_has_it(make: Make) -> None:
    intake = make()
    clip = await intake.from_upload(stream(b"clip1"), "a.mp4")
    video_hash = clip.video_hash
    assert is_held(intake, video_hash)
    del clip
    await until(lambda: not is_held(intake, video_hash))


async def test_a_clip_that_nobody_comes_to_look_at_is_503(make: Make) -> None:
    intake = make(request_timeout_s=0.05)
    problem = await refusal(intake.from_upload(stream(b"hang"), "a.mp4"))
    assert (problem.status, problem.slug) == (503, "inspector-busy")
    assert "Retry-After" in problem.headers


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/cat.mp4").write_bytes(b"clip3")
    return tmp_path / "root"


async def test_a_path_is_hashed_not_copied(make: Make, root: Path, tmp_path: Path) -> None:
    clip = await make(roots=(root,)).from_path(str(root / "cat.mp4"))
    assert clip.video_hash == hashlib.sha256(b"clip3").hexdigest()
    assert (clip.name, clip.source, clip.facts.seconds) == (str(root / "cat.mp4"), "path", 3.0)
    assert [path for path in files(tmp_path) if not path.is_symlink()] == []


async def test_a_file_put_in_the_place_of_a_checked_one_is_not_seen(make: Make, root: Path) -> None:
    clip = await make(roots=(root,)).from_path("cat.mp4")
    (root / "other").write_bytes(b"clip9")
    (root / "other").rename(root / "cat.mp4")
    assert clip.path.read_bytes() == b"clip3"


async def test_a_path_is_hashed_again_once_it_has_changed(make: Make, root: Path) -> None:
    intake = make(roots=(root,))
    before = await intake.from_path("cat.mp4")
    (root / "cat.mp4").write_bytes(b"clip4")
    after = await intake.from_path("cat.mp4")
    assert before.video_hash != after.video_hash
    assert after.facts.seconds == 4.0


async def test_a_file_of_a_path_is_closed_with_its_clip(
    make: Make, root: Path, tmp_path: Path
) -> None:
    intake = make(roots=(root,))
    clip = await intake.from_path("cat.mp4")
    del clip
    await refusal(make(roots=(root,), max_clip_bytes=3).from_path("cat.mp4"))
    await until(lambda: files(tmp_path) == [])


async def test_what_a_file_says_is_not_told_to_who_cannot_read_it(make: Make, root: Path) -> None:
    (root / ".env").write_bytes(b"PASSWORD=s3cret")
    intake = make(roots=(root,))
    problem = await refusal(intake.from_path(".env"))
    assert (problem.status, problem.slug, problem.detail) == (415, "no-video", ".env is no video")


async def test_a_disk_that_fails_or_does_not_answer_is_503_and_holds_up_no_upload(
    make: Make, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake, answers = make(roots=(root,), request_timeout_s=0.2), threading.Event()
    fails: list[OSError] = [OSError(errno.EIO, "Input/output error")]

    def open_file(path: str) -> OpenedFile:
        if fails:
            raise fails.pop()
        answers.wait(30)
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(intake._roots, "open", open_file)
    problem = await refusal(intake.from_path("cat.mp4"))
    assert (problem.status, problem.slug) == (503, "clip-unreachable")
    assert problem.detail == "cat.mp4 cannot be read: Input/output error"
    problems = await asyncio.gather(*[refusal(intake.from_path("cat.mp4")) for _ in range(20)])
    assert {one.detail for one in problems} == {"cat.mp4 cannot be read: its disk does not answer"}
    assert await intake.from_upload(stream(b"clip1"), "a.mp4")
    answers.set()


async def test_a_url_is_fetched_into_the_store(make: Make, inspector: Inspector) -> None:
    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclip6")

    async with serving(answer) as server:
        host = f"clips.example:{server.port}"
        intake = make(url_hosts=(host,), private_url_hosts=(host,))
        clip = await intake.from_url(f"http://{host}/cat.mp4?key=s3cret")
    assert (clip.source, clip.name) == ("url", f"http://{host}/cat.mp4")
    assert clip.path.read_bytes() == b"clip6"


async def test_what_a_url_gives_is_limited_as_an_upload_is(make: Make, tmp_path: Path) -> None:
    async with serving(served_clip) as server:
        host = f"clips.example:{server.port}"
        intake = make(url_hosts=(host,), private_url_hosts=(host,), max_clip_bytes=3)
        problem = await refusal(intake.from_url(f"http://{host}/cat.mp4"))
    assert (problem.status, problem.slug) == (413, "clip-too-large")
    assert files(tmp_path) == []


def again(clip: AdmittedClip) -> dict[str, Any]:
    return {"video_hash": clip.video_hash, "source": clip.source, "name": clip.name}


async def test_an_earlier_upload_is_admitted_again_until_it_is_gone(make: Make) -> None:
    intake = make()
    clip = await intake.from_upload(stream(b"clip1"), "a.mp4")
    assert await intake.again(**again(clip)) == clip
    intake._clips.remove(clip.video_hash)
    problem = await refusal(intake.again(**again(clip)))
    assert (problem.status, problem.slug) == (410, "clip-gone")


async def test_an_earlier_path_is_admitted_again_if_it_has_the_same_bytes(
    make: Make, root: Path
) -> None:
    intake = make(roots=(root,))
    clip = await intake.from_path("cat.mp4")
    assert (await intake.again(**again(clip))).video_hash == clip.video_hash
    (root / "cat.mp4").write_bytes(b"clip4")
    problem = await refusal(intake.again(**again(clip)))
    assert (problem.status, problem.slug) == (409, "clip-changed")


async def test_a_damaged_clip_is_named_as_the_client_named_it(
    make: Make, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def damaged(path: Path) -> ClipFacts:
        raise ClipError(f"cannot decode {path}: it is cut")

    monkeypatch.setattr(inspector, "inspect", damaged)
    problem = await refusal(make().from_upload(stream(b"clip1"), "a/cat.mp4"))
    assert (problem.status, problem.detail) == (422, "cannot decode cat.mp4: it is cut")


async def test_a_clip_of_which_other_bytes_were_read_is_refused(make: Make) -> None:
    clip = await make().from_upload(stream(b"clip1"), "a.mp4")
    clip.refuse_changed(clip.video_hash)
    clip.refuse_changed("")
    with pytest.raises(Problem) as caught:
        clip.refuse_changed("0" * 64)
    assert (caught.value.status, caught.value.slug) == (409, "clip-changed")


async def test_a_problem_with_a_clip_does_not_tell_where_it_lies(make: Make) -> None:
    clip = await make().from_upload(stream(b"clip1"), "a.mp4")
    reason = f"cannot decode {clip.path}: no frame in it"
    problem = clip.named(
        Problem(422, "clip-failed", f"no answer: {reason}", extra={"failure": {"reason": reason}})
    )
    assert problem.detail == "no answer: cannot decode a.mp4: no frame in it"
    assert problem.extra == {"failure": {"reason": "cannot decode a.mp4: no frame in it"}}
