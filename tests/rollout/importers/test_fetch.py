"""Sources and videos of other machines: a real web server here, and moto's S3 over real HTTP."""

import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollout.importers.fetch import MediaStore
from rollout.importers.videos import UNFETCHED
from tests.buckets import s3_bucket
from tests.rollout.importers.builders import Workspace
from wire.errors import ConfigError, DataError
from wire.types import Split

RATIO = {Split.TRAIN: 0.5, Split.TEST: 0.5}


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``, and counts what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.gets: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self.server.gets[self.path] += 1
        if self.path.startswith("/hang"):
            time.sleep(3)
        data = self.server.files.get(self.path, b"")
        self._answer(data[: len(data) // 2] if self.path.startswith("/cut") else data)

    def _answer(self, body: bytes) -> None:
        found = self.path in self.server.files
        first = self.path.split("/")[1]
        status = int(first) if first.isdecimal() else 200 if found else 404
        if first == "busy" and self.server.gets[self.path] < 3:
            status = 429
        self.send_response(status)
        if status in (429, 503):
            self.send_header("Retry-After", "0")
        whole = self.server.files.get(self.path, b"") if status == 200 else b""
        self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        if status == 200:
            self.wfile.write(body)
        if self.path.startswith("/cut"):
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_list_and_its_videos_are_fetched_once(workspace: Workspace, server: Server) -> None:
    for name in ("a", "b"):
        server.files[f"/v/{name}.mp4"] = f"video {name}".encode()
    server.files["/list.csv"] = b"path,label\nv/a.mp4,x\nv/b.mp4,y\n"
    source = f"{server.url}/list.csv"
    workspace.read(source, split=Split.TRAIN)
    videos = [workspace.manifest.parent / row["video"] for row in workspace.rows.values()]
    assert [video.read_text() for video in videos] == ["video a", "video b"]
    assert [video.parent.name for video in videos] == ["manifest-media"] * 2
    workspace.read(source, split=Split.TRAIN, overwrite=True)
    assert server.gets["/v/a.mp4"] == server.gets["/v/b.mp4"] == 1
    assert server.gets["/list.csv"] == 2


def test_a_web_server_is_asked_for_names_without_a_suffix(
    workspace: Workspace, server: Server
) -> None:
    server.files |= {"/v/a.mkv": b"a", "/v/b.mp4": b"b"}
    source = workspace.write_text("t.csv", "path,label\na,x\nb,y\nc,y\n")
    with pytest.raises(DataError, match="1 of 3 clips have no video under http"):
        workspace.read(source, split=Split.TRAIN, media_root=f"{server.url}/v/")
    workspace.read(source, split=Split.TRAIN, media_root=f"{server.url}/v", skip_missing=True)
    assert len(workspace.rows) == 2


def test_urls_in_rows_and_a_media_root_elsewhere(workspace: Workspace, server: Server) -> None:
    server.files["/deep/a.mp4"] = server.files["/other/b.mp4"] = b"video"
    text = f"path,label\n/farm/a.mp4,x\n{server.url}/other/b.mp4,y\n"
    source = workspace.write_text("t.csv", text)
    folder = workspace.folder / "media"
    workspace.read(source, split=Split.TRAIN, media_root=f"{server.url}/deep", download=folder)
    assert {Path(row["video"]).parent for row in workspace.rows.values()} == {folder}


def test_two_urls_of_one_name_get_two_files(tmp_path: Path, server: Server) -> None:
    server.files = {"/one/a.mp4": b"1", "/two/a.mp4": b"2", "/two/a.mp4?x=../../b": b"3"}
    store = MediaStore(tmp_path / "media")
    made, faults = store.fetch_all([server.url + path for path in server.files])
    assert sorted(path.read_bytes() for path in made.values()) == [b"1", b"2", b"3"]
    assert faults == {}
    assert {path.parent for path in made.values()} == {tmp_path / "media"}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/none.mp4", "none.mp4 does not exist"),
        ("/cut/a.mp4", "cut/a.mp4 cannot be fetched"),
        ("/401/a.mp4", "it answers HTTP 401 Unauthorized, so it is closed to you; give an address"),
        (
            "/403/a.mp4",
            "HTTP 403 Forbidden.* hf auth login .* or download it yourself and give --me",
        ),
        ("/429/a.mp4", "HTTP 429 Too Many Requests; wait some minutes"),
        ("/500/a.mp4", "HTTP 500 Internal Server Error: the server failed, not you; try again"),
        ("/503/a.mp4", "HTTP 503 Service Unavailable: the server failed"),
        ("/page/a.mp4", "page/a.mp4 is a web page, not a video; .* /resolve/ instead of /blob/"),
        ("/hang/a.mp4", "sent nothing for 0.2 s; try again, or give a longer --timeout"),
    ],
)
def test_what_cannot_be_fetched_is_told_and_leaves_no_half_file(
    workspace: Workspace, server: Server, path: str, words: str
) -> None:
    server.files |= {"/a.mp4": b"video", "/b.mp4": b"video"}
    if path != "/none.mp4":
        server.files[path] = b"\n<!DOCTYPE html>" if "page" in path else b"x" * 1000
    lines = [f"{server.url}{name},{label}" for name, label in (("/a.mp4", "x"), ("/b.mp4", "y"))]
    text = "\n".join(["path,label", *lines, f"{server.url}{path},x", ""])
    source = workspace.write_text("t.csv", text)
    folder = workspace.folder / "media"
    options = {"split": Split.TRAIN, "timeout_s": 0.2, "download": folder}
    with pytest.raises(DataError, match=f"1 of 3 clips have a video that cannot be fetch.*{words}"):
        workspace.read(source, **options)
    assert len(left(folder)) == 3
    assert not [name for name in left(folder) if name.endswith(".part")]
    assert not workspace.manifest.exists()
    report = workspace.read(source, skip_missing=True, **options)
    assert report.tally.count(UNFETCHED) == 1
    assert server.gets["/a.mp4"] == 1


@pytest.mark.parametrize(("status", "tries"), [(403, 1), (404, 1), (500, 3), (429, 3)])
def test_only_what_may_pass_is_asked_again(
    tmp_path: Path, server: Server, status: int, tries: int
) -> None:
    path = f"/{status}/a.mp4"
    _, faults = MediaStore(tmp_path).fetch_all([server.url + path])
    assert len(faults) == 1
    assert server.gets[path] == tries


def test_a_busy_place_is_waited_for(tmp_path: Path, server: Server) -> None:
    server.files["/busy/a.mp4"] = b"video"
    assert MediaStore(tmp_path).fetch(f"{server.url}/busy/a.mp4").read_bytes() == b"video"
    assert server.gets["/busy/a.mp4"] == 3


def test_a_source_that_is_closed_is_told(workspace: Workspace, server: Server) -> None:
    with pytest.raises(DataError, match=r"403/t\.csv cannot be fetched: it answers HTTP 403"):
        workspace.read(f"{server.url}/403/t.csv", split=Split.TRAIN)


def test_a_file_that_lost_its_end_is_fetched_again(tmp_path: Path, server: Server) -> None:
    server.files["/a.mp4"] = b"a whole video"
    path = MediaStore(tmp_path).fetch(f"{server.url}/a.mp4")
    path.write_bytes(b"a wh")
    (tmp_path / "fetched.jsonl").open("a").write('{"name": "cut')
    assert MediaStore(tmp_path).fetch(f"{server.url}/a.mp4").read_bytes() == b"a whole video"


def test_the_signature_of_a_url_is_written_nowhere(tmp_path: Path, server: Server) -> None:
    server.files["/a.mp4?signature=secret"] = b"video"
    MediaStore(tmp_path).fetch(f"{server.url}/a.mp4?signature=secret")
    assert "secret" not in (tmp_path / "fetched.jsonl").read_text() + str(left(tmp_path))


def test_a_source_that_is_not_there_is_told(workspace: Workspace, server: Server) -> None:
    with pytest.raises(DataError, match=r"cannot read http.*/none\.csv: nothing is there"):
        workspace.read(f"{server.url}/none.csv", split=Split.TRAIN)


def test_a_machine_that_does_not_answer_is_told(workspace: Workspace) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DataError, match="cannot be fetched: nobody listens there"):
        workspace.read(f"http://127.0.0.1:{port}/t.csv", split=Split.TRAIN, timeout_s=0.5)


def test_a_scheme_without_its_package_or_without_meaning_is_told(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match=r"gs://b/t\.csv needs a package for gs://.*gcsfs"):
        workspace.read("gs://b/t.csv", split=Split.TRAIN)
    with pytest.raises(ConfigError, match=r"Protocol not known: nope.*expected file://, s3://"):
        workspace.read("nope://b/t.csv", split=Split.TRAIN)


def test_a_file_url_is_a_source_and_a_video(workspace: Workspace) -> None:
    workspace.files("a.mp4", "b.mp4")
    root = f"file://{workspace.folder}"
    source = workspace.write_text("t.csv", f"path,label\n{root}/a.mp4,x\n{root}/b.mp4,y\n")
    workspace.read(f"file://{source}", split=Split.TRAIN)
    assert len(workspace.rows) == 2


@pytest.fixture
def bucket() -> Iterator[str]:
    """An empty bucket of moto's S3 server."""
    with s3_bucket() as address:
        yield address


def put(url: str, data: bytes) -> None:
    import fsspec

    with fsspec.open(url, "wb") as file:
        file.write(data)


def test_a_folder_per_class_in_a_bucket(workspace: Workspace, bucket: str) -> None:
    for label in ("x", "y"):
        for number in range(2):
            put(f"{bucket}/data/{label}/{number}.mp4", f"{label}{number}".encode())
    report = workspace.read(f"{bucket}/data", ratio=RATIO)
    assert report.rows == {(s, label): 1 for s in ("train", "test") for label in ("x", "y")}
    told = {
        name: (workspace.manifest.parent / row["video"]).read_text()
        for name, row in workspace.rows.items()
    }
    assert told == {"x/0": "x0", "x/1": "x1", "y/0": "y0", "y/1": "y1"}


def test_a_list_here_with_its_videos_in_a_bucket(workspace: Workspace, bucket: str) -> None:
    put(f"{bucket}/v/train/a.mp4", b"a")
    put(f"{bucket}/v/b.mp4", b"b")
    source = workspace.write_text("t.csv", "path,label\n/farm/train/a.mp4,x\nb,y\nc.mp4,y\n")
    with pytest.raises(DataError, match="1 of 3 clips have no video under s3://yard/v"):
        workspace.read(source, split=Split.TRAIN, media_root=f"{bucket}/v")
    workspace.read(source, split=Split.TRAIN, media_root=f"{bucket}/v", skip_missing=True)
    assert len(workspace.rows) == 2


def test_a_videofolder_in_a_bucket_is_read_by_its_metadata(
    workspace: Workspace, bucket: str
) -> None:
    put(f"{bucket}/vf/clips/a.mp4", b"a")
    put(f"{bucket}/vf/clips/b.mp4", b"b")
    put(f"{bucket}/vf/metadata.csv", b"file_name,label\nclips/a.mp4,x\nclips/b.mp4,y\n")
    workspace.read(f"{bucket}/vf", split=Split.TRAIN)
    assert {name: row["label"] for name, row in workspace.rows.items()} == {
        "clips/a": "x",
        "clips/b": "y",
    }
    index = (workspace.manifest.parent / "manifest-media/fetched.jsonl").read_text()
    assert {json.loads(line)["size"] for line in index.splitlines()} >= {1}


def test_a_bucket_that_is_not_there_is_told(workspace: Workspace, bucket: str) -> None:
    with pytest.raises(DataError, match=r"s3://nowhere/t\.csv: nothing is there"):
        workspace.read("s3://nowhere/t.csv", split=Split.TRAIN)


def test_an_interrupt_waits_for_no_silent_place(workspace: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        source = workspace.write_text("t.csv", f"path,label\n{url}/a.mp4,x\n{url}/b.mp4,y\n")
        typed = ["import", source, str(workspace.manifest), "--split", "train"]
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", *typed], stderr=subprocess.PIPE, text=True
        )
        try:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=30)  # it would wait 3 x 60 s for an answer
        finally:
            process.kill()
    assert process.returncode == 130
    assert said.startswith("interrupted; go on from what is done with:")
    assert list(workspace.folder.rglob("*.part")) == []
    assert not workspace.manifest.exists()
