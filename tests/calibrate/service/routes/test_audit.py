import sqlite3
from pathlib import Path

import httpx

from tests.calibrate.service.running import Running, make_config, running


def appended(service: Running, num: int) -> None:
    with service.service.database.write() as connection:
        for number in range(num):
            service.service.audit.append(connection, "ada", "test.done", f"things/{number}", {})


def test_the_log_is_read_in_pages_from_the_newest_on(tmp_path: Path):
    with running(make_config(tmp_path)) as service, httpx.Client(base_url=service.url) as client:
        headers = service.headers("admin")
        appended(service, 5)
        subjects, cursor = [], {}
        for _ in range(3):
            page = client.get(
                "/v1/audit", params={"limit": 2, "actor": "ada", **cursor}, headers=headers
            ).json()
            subjects += [row["subject"] for row in page["rows"]]
            cursor = {"cursor": page["next_cursor"]}
        assert subjects == [f"things/{number}" for number in (4, 3, 2, 1, 0)]
        assert page["next_cursor"] is None
        everything = client.get("/v1/audit", headers=headers).json()
        assert everything["rows"][-1]["action"] == "token.created"
        assert client.get("/v1/audit", headers=service.headers("read")).status_code == 403


def test_verifying_names_the_row_that_someone_changed(tmp_path: Path):
    with running(make_config(tmp_path)) as service, httpx.Client(base_url=service.url) as client:
        headers = service.headers("admin")
        appended(service, 3)
        whole = client.get("/v1/audit/verify", headers=headers).json()
        assert (whole["whole"], whole["first_broken"], whole["head"]["id"]) == (True, None, 4)
        noted = {"noted_id": 4, "noted_hash": whole["head"]["hash"]}
        assert client.get("/v1/audit/verify", params=noted, headers=headers).json()["whole"]

        file = sqlite3.connect(service.service.database.path)
        with file:
            file.execute("DROP TRIGGER audit_keeps_values")
            file.execute("UPDATE audit SET subject = 'things/9' WHERE id = 3")
        file.close()
        broken = client.get("/v1/audit/verify", params=noted, headers=headers).json()
        assert (broken["whole"], broken["first_broken"]["id"]) == (False, 3)


def test_half_a_noted_head_is_refused(tmp_path: Path):
    with running(make_config(tmp_path)) as service, httpx.Client(base_url=service.url) as client:
        headers = service.headers("admin")
        for params in ({"noted_id": 1}, {"noted_hash": "0" * 64}, {"noted_id": 0}):
            answer = client.get("/v1/audit/verify", params=params, headers=headers)
            assert answer.status_code == 422, params
        for params in ({"limit": 0}, {"limit": 1001}, {"cursor": 2**63}):
            assert client.get("/v1/audit", params=params, headers=headers).status_code == 422
