"""The page's files: what needs no token, and nothing beside it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import calibrate.service.web
from tests.calibrate.service.running import make_config, running

FOLDER = Path(calibrate.service.web.__file__).parent
FILES = [path for path in FOLDER.iterdir() if path.suffix in (".html", ".css", ".js", ".svg")]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        running(make_config(tmp_path_factory.mktemp("page"))) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        yield client


def test_every_file_of_the_page_is_served_without_a_token(client: httpx.Client):
    for path in FILES:
        address = "/" if path.name == "index.html" else f"/static/{path.name}"
        answer = client.get(address).raise_for_status()
        assert answer.content == path.read_bytes()
        assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"


def test_the_page_asks_for_nothing_elsewhere_and_makes_no_markup_of_text():
    text = "".join(path.read_text() for path in FILES).replace("http://www.w3.org/", "")
    for word in ("http://", "https://", "innerHTML", "insertAdjacentHTML", "eval("):
        assert word not in text.replace("https://host/clip.mp4", "")


def test_every_module_is_imported_by_another_one():
    modules = {path.name: path.read_text() for path in FILES if path.suffix == ".js"}
    imported = {
        line.split('"./')[1].split('"')[0]
        for text in modules.values()
        for line in text.splitlines()
        if line.startswith("import ")
    }
    assert imported | {"main.js"} == set(modules)


def test_a_file_that_has_not_changed_is_not_sent_again(client: httpx.Client):
    first = client.get("/static/main.js")
    again = client.get("/static/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("name", ["__init__.py", "..%2f__init__.py", "%00", "none.js", "a/b.js"])
def test_no_other_file_is_reached(client: httpx.Client, name: str):
    assert client.get(f"/static/{name}").status_code == 404
