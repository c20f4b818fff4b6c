from pathlib import Path

import httpx

from tests.calibrate.service.running import make_config, running


def test_a_token_is_made_used_listed_and_revoked(tmp_path: Path):
    with running(make_config(tmp_path)) as service, httpx.Client(base_url=service.url) as client:
        admin = service.headers("admin")
        made = client.post(
            "/v1/tokens", json={"name": "labelling", "scopes": ["read"]}, headers=admin
        )
        assert made.status_code == 201
        token = made.json()["token"]
        assert (token["name"], token["scopes"], token["revoked_at"]) == (
            "labelling",
            ["read"],
            None,
        )
        bearer = {"Authorization": f"Bearer {made.json()['secret']}"}
        assert client.get("/metrics", headers=bearer).status_code == 200

        listed = client.get("/v1/tokens", headers=admin)
        assert token in listed.json()["tokens"]
        assert made.json()["secret"] not in listed.text

        assert client.delete(f"/v1/tokens/{token['id']}", headers=admin).status_code == 204
        refused = client.get("/metrics", headers=bearer)
        assert (refused.status_code, refused.json()["title"]) == (401, "Invalid token")
        last = client.get("/v1/tokens", headers=admin).json()["tokens"][-1]
        assert last["revoked_by"] == "a test"
        assert client.delete("/v1/tokens/nobody", headers=admin).status_code == 404


def test_only_an_admin_makes_tokens(tmp_path: Path):
    with running(make_config(tmp_path)) as service, httpx.Client(base_url=service.url) as client:
        headers = service.headers("classify", "read", "review", "fit")
        answer = client.post(
            "/v1/tokens", json={"name": "more", "scopes": ["admin"]}, headers=headers
        )
        assert answer.status_code == 403
        assert client.get("/v1/tokens", headers=headers).status_code == 403


def test_bad_tokens_are_refused_with_the_fault(tmp_path: Path):
    with running(make_config(tmp_path)) as service, httpx.Client(base_url=service.url) as client:
        admin = service.headers("admin")
        for body in (
            {"name": "a", "scopes": ["root"]},
            {"name": "a", "scopes": []},
            {"name": "a\0", "scopes": ["read"]},
            {"name": "", "scopes": ["read"]},
            {"name": "a", "scopes": ["read"], "secret": "mine"},
        ):
            assert client.post("/v1/tokens", json=body, headers=admin).status_code == 422, body


def test_no_secret_is_kept_under_an_idempotency_key(tmp_path: Path):
    with running(make_config(tmp_path)) as service, httpx.Client(base_url=service.url) as client:
        headers = service.headers("admin") | {"Idempotency-Key": "once"}
        body = {"name": "a", "scopes": ["read"]}
        answers = [client.post("/v1/tokens", json=body, headers=headers) for _ in range(2)]
        secrets = {answer.json()["secret"] for answer in answers}
        assert len(secrets) == 2
        for file in (tmp_path / "state").iterdir():
            if file.is_file():
                content = file.read_bytes()
                assert not any(secret[20:].encode() in content for secret in secrets), file


def test_a_full_disk_is_told_and_the_service_goes_on_when_there_is_room(tmp_path: Path):
    with running(make_config(tmp_path)) as service, httpx.Client(base_url=service.url) as client:
        headers, body = service.headers("admin"), {"name": "n" * 200, "scopes": ["read"]}
        with service.service.database.write() as connection:  # SQLite then says that it is full
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
        answers = [client.post("/v1/tokens", json=body, headers=headers) for _ in range(30)]
        made = [answer for answer in answers if answer.status_code == 201]
        full = [answer for answer in answers if answer.status_code == 507]
        assert len(made) + len(full) == 30
        assert full[0].json()["title"] == "Disk full"
        assert len(client.get("/v1/tokens", headers=headers).json()["tokens"]) == 1 + len(made)
        with service.service.database.write() as connection:
            connection.execute("PRAGMA max_page_count = 1000000")
        assert client.post("/v1/tokens", json=body, headers=headers).status_code == 201
        assert client.get("/v1/audit/verify", headers=headers).json()["whole"]
