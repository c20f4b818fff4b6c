"""A model by directory, from the hub's cache, or from the hub (a server of our own, here)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from cluster.inputs.model_folder import cached_model, local_model
from wire.errors import ConfigError

ROOT = Path(__file__).parents[3]
NAME = "demo-org/tiny-vl"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_model(folder: Path, model_type: str = "qwen3_vl", shards: int = 1) -> Path:
    """As much of a model as finding it asks for."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer.json").write_text("{}")
    if shards == 1:
        (folder / "model.safetensors").write_bytes(b"weights")
        return folder
    names = [f"model-{i}.safetensors" for i in range(shards)]
    for name in names:
        (folder / name).write_bytes(b"weights")
    index = {"weight_map": dict(zip("abcdefgh", names, strict=False))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def cache(root: Path, shards: int = 1) -> Path:
    """The model in the layout of Hugging Face's cache; its folder."""
    repo = root / f"models--{NAME.replace('/', '--')}"
    folder = write_model(repo / "snapshots" / COMMIT, shards=shards)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(COMMIT)
    return folder


def test_a_directory_is_itself(tmp_path: Path):
    assert local_model(write_model(tmp_path / "m")) == tmp_path / "m"


@pytest.mark.parametrize("shards", [1, 3])
def test_a_name_is_found_in_the_cache(tmp_path: Path, shards: int):
    folder = cache(tmp_path, shards)
    assert cached_model(Path(NAME), tmp_path) == folder
    assert local_model(Path(NAME), tmp_path) == folder


@pytest.mark.parametrize("lost", ["model-1.safetensors", "tokenizer.json", "config.json"])
def test_half_a_model_in_the_cache_is_none(tmp_path: Path, lost: str):
    (cache(tmp_path, shards=3) / lost).unlink()
    assert cached_model(Path(NAME), tmp_path) is None


@pytest.mark.parametrize("model", ["/nowhere/model", "model", "a/b/c", "../org/name"])
def test_what_is_neither_directory_nor_name_is_refused(model: str):
    with pytest.raises(ConfigError, match=f"no model directory {model}; give 'model'"):
        local_model(Path(model))


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download asks for; ``folder`` and ``asked`` are set by the test."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        files = sorted(p.relative_to(self.folder) for p in self.folder.rglob("*") if p.is_file())
        prefix = f"/{NAME}/resolve/"
        if path.startswith(prefix):
            name = path.removeprefix(prefix).partition("/")[2]
            if with_body:
                self.asked.append(name)
            body = (self.folder / name).read_bytes() if Path(name) in files else None
        elif path.startswith(f"/api/models/{NAME}/tree/"):
            body = json.dumps(
                [
                    {"type": "file", "path": str(f), "size": (self.folder / f).stat().st_size}
                    | {"oid": COMMIT}
                    for f in files
                ]
            ).encode()
        elif path.startswith(f"/api/models/{NAME}"):
            siblings = [{"rfilename": str(f)} for f in files]
            body = json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode()
        else:
            body = None
        self.send_response(404 if body is None else 200)
        if not files:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{abs(hash(path)):x}"')
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if with_body and body:
            self.wfile.write(body)


@contextmanager
def hub_with(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the files that were fetched."""
    asked: list[str] = []
    handler = type("OneHub", (Hub,), {"folder": folder, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()


def find(cache_dir: Path, hub: str, **env: str) -> subprocess.CompletedProcess[str]:
    """``local_model`` in a process of its own: the hub's address is read at import."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from cluster.inputs.model_folder import local_model\n"
        "from wire.errors import ConfigError\n"
        "try:\n    print(local_model(Path(sys.argv[1]), Path(sys.argv[2])))\n"
        "except ConfigError as error:\n    sys.exit(str(error))\n"
    )
    own = {"HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **env}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", code, NAME, str(cache_dir)],
        cwd=ROOT,
        env={**kept, **own},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_name_is_downloaded_once_and_only_what_is_needed(tmp_path: Path):
    folder = write_model(tmp_path / "hub", shards=2)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_mine.py").write_text("raise SystemExit")
    with hub_with(folder) as (address, asked):
        found = find(tmp_path / "cache", address)
        assert found.returncode == 0, found.stderr
        first = sorted(asked)
        assert find(tmp_path / "cache", address).stdout == found.stdout
    here = sorted(p.name for p in Path(found.stdout.strip()).iterdir())
    names = ("config.json", "model-0.safetensors", "model-1.safetensors")
    assert here == first == [*names, "model.safetensors.index.json", "tokenizer.json"]
    assert sorted(asked) == first


def test_a_model_of_another_kind_is_refused_before_its_weights_are_fetched(tmp_path: Path):
    with hub_with(write_model(tmp_path / "hub", "qwen3_vl_moe")) as (address, asked):
        found = find(tmp_path / "cache", address)
    assert found.returncode == 1
    assert "demo-org/tiny-vl" in found.stderr
    assert "use one of: qwen2_vl, qwen2_5_vl, qwen3_vl" in found.stderr
    assert asked == ["config.json"]


def test_weights_that_are_pickles_are_refused(tmp_path: Path):
    folder = write_model(tmp_path / "hub")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with hub_with(folder) as (address, _):
        found = find(tmp_path / "cache", address)
    assert found.returncode == 1
    assert "lacks weights as safetensors" in found.stderr


def test_a_model_that_the_hub_does_not_have_is_one_sentence(tmp_path: Path):
    (tmp_path / "hub").mkdir()
    with hub_with(tmp_path / "hub") as (address, _):
        found = find(tmp_path / "cache", address)
    assert_one_sentence(found, "it has none that you may read")


def test_offline_the_cache_is_all_there_is(tmp_path: Path):
    with hub_with(write_model(tmp_path / "hub")) as (address, asked):
        found = find(tmp_path / "cache", address, HF_HUB_OFFLINE="1")
    assert asked == []
    assert_one_sentence(found, "HF_HUB_OFFLINE is set")


class Refusing(BaseHTTPRequestHandler):
    """A hub that answers everything with one status; with none it hangs up."""

    status: int | None
    code: str

    def do_HEAD(self) -> None:
        if self.status is None:
            return
        self.send_response(self.status)
        self.send_header("X-Error-Code", self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (401, "", "HTTP 401 Unauthorized, so it is closed to you; give a token that may read it"),
        (
            403,
            "GatedRepo",
            "it is gated, and you have no access; ask for it or accept its terms on",
        ),
        (403, "", "HTTP 403 Forbidden, so it is closed to you; give a token"),
        (404, "RepoNotFound", "it has none that you may read; mend the name, or, if it is private"),
    ],
)
def test_a_hub_that_refuses_is_told_with_the_way_in(
    tmp_path: Path, status: int, code: str, reason: str
):
    handler = type("OneHub", (Refusing,), {"status": status, "code": code})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    found = find(tmp_path, f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    assert_one_sentence(found, reason)
    assert "HF_TOKEN" in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (503, "HTTP 503 Service Unavailable: the server failed, not you; try again later"),
        (None, "RemoteProtocolError); mend the name"),
    ],
)
def test_a_hub_that_is_down_is_told(tmp_path: Path, status: int | None, reason: str):
    """The hub's own client asks six times, for half a minute."""
    handler = type("OneHub", (Refusing,), {"status": status, "code": ""})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    found = find(tmp_path, f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    assert found.returncode == 1
    assert reason in found.stderr
    assert "Traceback" not in found.stderr


def assert_one_sentence(found: subprocess.CompletedProcess[str], reason: str) -> None:
    assert found.returncode == 1
    assert found.stderr.startswith(f"there is no directory {NAME}, and no model of that name")
    assert reason in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
