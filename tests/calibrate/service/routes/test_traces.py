"""Archives and traces over HTTP, of a real archive."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster.serving.traces import ArchiveTraces
from tests.calibrate.service.running import make_config, make_parts, running
from tests.cluster.trace_archives import FIRST_ID, write_archive


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("traces")
    write_archive(folder / "run")
    browser = ArchiveTraces({"demo": folder / "run", "gone": folder / "gone"})
    with (
        running(make_config(folder), make_parts(traces=browser)) as service,
        httpx.Client(base_url=service.url, headers=service.headers("read")) as client,
    ):
        yield client


def test_archives_are_listed_with_counts_or_with_what_is_wrong(client: httpx.Client):
    demo, gone = client.get("/v1/archives").json()["archives"]
    assert (demo["name"], demo["groups"], demo["traces"], demo["error"]) == ("demo", 9, 16, None)
    assert (gone["name"], gone["counts"]) == ("gone", [])
    assert "cannot be opened" in gone["error"]


def test_pages_lead_to_each_other_and_each_trace_to_itself(client: httpx.Client):
    seen, cursor = [], None
    while True:
        given = {"where": ["label=undo", "text~answer"], "limit": 3}
        answer = client.get("/v1/traces", params=given | ({"cursor": cursor} if cursor else {}))
        page = answer.raise_for_status().json()
        seen += page["traces"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [row["sample_id"] for row in seen] == [f"clip-{n}" for n in (0, 2, 4, 6)]
    for row in seen:
        whole = client.get(f"/v1/traces/demo/{row['id']}").raise_for_status().json()
        for name in ("id", "label", "group_id", "trace_index", "reward"):
            assert whole[name] == row[name]


@pytest.mark.parametrize(
    ("path", "status", "slug"),
    [
        ("/v1/traces?archive=dem", 404, "no-such-archive"),
        ("/v1/traces?where=lable=undo", 422, "bad-listing"),
        ("/v1/traces?where=undo", 422, "bad-listing"),
        ("/v1/traces?where=label=%00", 200, None),
        ("/v1/traces?where=text~%F0%9F", 200, None),
        ("/v1/traces?cursor=abc", 422, "bad-listing"),
        ("/v1/traces?archive=gone", 422, "bad-listing"),
        ("/v1/traces?limit=0", 422, None),
        ("/v1/traces?limit=99999999999999999999", 422, None),
        ("/v1/traces/demo/0.0.nothing", 404, "no-such-trace"),
        ("/v1/traces/demo/0.0.%00", 404, "no-such-trace"),
        (f"/v1/traces/none/0.0.{FIRST_ID}", 404, "no-such-archive"),
        ("/v1/traces/demo/..%2f..%2fetc%2fpasswd", 404, "no-such-trace"),
    ],
)
def test_what_cannot_be_listed_is_a_problem(
    client: httpx.Client, path: str, status: int, slug: str | None
):
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    if slug is not None:
        assert answer.json()["type"] == f"urn:deepintuit:problem:{slug}"


def test_a_token_without_the_scope_reads_nothing(tmp_path: Path):
    with running(make_config(tmp_path)) as service:
        headers = service.headers("classify")
        for path in ("/v1/archives", "/v1/traces", "/v1/traces/a/b"):
            assert httpx.get(service.url + path, headers=headers).status_code == 403
        reader = service.headers("read")
        assert httpx.get(service.url + "/v1/archives", headers=reader).json() == {"archives": []}
        assert httpx.get(service.url + "/v1/traces", headers=reader).status_code == 404
