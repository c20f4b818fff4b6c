"""Service that is killed a hundred times at random while callers fit, register and promote."""

import random
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from calibrate.classifier import load_classifier
from calibrate.service.caller import SCOPES
from calibrate.service.config import RateLimit, ServiceConfig
from calibrate.service.jobs import job
from calibrate.service.state import audit, registry, tokens
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database
from calibrate.service.state.registry import Registry
from calibrate.service.state.tokens import Tokens
from tests.calibrate.service.fakes import publish_tiny
from tests.calibrate.service.jobs.open_jobs import make_source
from tests.calibrate.service.killed_service import (
    Clients,
    KilledService,
    Sent,
    connected,
    send,
    until_ended,
)
from tests.calibrate.service.running import make_config
from tests.calibrate.service.state.wholeness import check_aliases, check_folders

KILLS = 100
LONGEST_S = 0.6
OPENS_S = 0.3
SCHEMAS = (audit.SCHEMA, tokens.SCHEMA, registry.SCHEMA, job.SCHEMA)


@pytest.mark.slow
def test_a_service_that_is_killed_a_hundred_times_loses_nothing_that_it_answered(tmp_path: Path):
    root, draw = tmp_path / "root", random.Random(0)
    rate = RateLimit(per_second=1e6, burst=10**6)
    config = make_config(tmp_path, roots=(root,), rate=rate)
    published = [publish_tiny(root, f"classifier-{number}").path for number in range(60)]
    sources = [make_source(root, f"run-{number}", step_s=0.03) for number in range(60)]
    secret = prepared(config, published[:8])
    ledger: dict[str, Sent] = {}
    seen: Counter[str] = Counter()
    for kill in range(KILLS):
        service = KilledService(config)
        if draw.random() < 0.1:
            time.sleep(draw.uniform(0, OPENS_S))  # the moment of the kill: nothing is waited for
            service.kill()
        else:
            url = service.url()
            resend(url, secret, ledger)
            clients = Clients(url, secret, ledger, published, sources, kill)
            time.sleep(draw.uniform(0, LONGEST_S))
            service.kill()
            clients.join()
        seen["answers"] = sum(sent.status is not None for sent in ledger.values())
        seen["kills in a request"] += any(
            sent.status is None for tag, sent in ledger.items() if tag.startswith(f"{kill}-")
        )
        check(config, ledger)
    assert seen["kills in a request"] > KILLS / 2, seen
    assert seen["answers"] > 3 * KILLS, seen
    check_end(config, secret, ledger, sources)


def prepared(config: ServiceConfig, published: list[Path]) -> str:
    """Secret of a caller who may all; with some versions, the first of them champion."""
    config.state.mkdir()
    database = Database.open(config.database, SCHEMAS)
    classifiers = Registry(database, Audit(database), config.state / "classifiers")
    for path in published:
        classifiers.register(path, source="test", by="test")
    classifiers.promote(1, by="test", expected_champion=None, reason="the first")
    secret = Tokens(database).create("test", SCOPES, by="test")
    database.close()
    return secret


def resend(url: str, secret: str, ledger: Mapping[str, Sent]) -> None:
    """Send again what had no answer, with the key that it had, and one that had one."""
    answered = [tag for tag, sent in ledger.items() if sent.status in (200, 201, 202)]
    kept = [tag for tag in answered if ledger[tag].path != "/v1/tokens"][-1:]
    with connected(url, secret) as client:
        for tag in kept:
            again = send(client, tag, ledger[tag])
            assert again.headers["Idempotency-Replayed"] == "true"
            assert again.json() == ledger[tag].answer
        for tag, sent in list(ledger.items()):
            if sent.status is None:
                sent.take(send(client, tag, sent))


def check(config: ServiceConfig, ledger: Mapping[str, Sent]) -> None:
    """The state has everything that was answered, and one champion; it is only read."""
    refused = {
        (sent.status, sent.answer["title"])
        for sent in ledger.values()
        if sent.status is not None and sent.status >= 400
    }
    assert refused <= {(409, "No previous champion"), (404, "No such classifier")}
    database = Database.open(config.database, SCHEMAS)
    assert Audit(database).verify() is None
    rows = {row.id: row for row in Audit(database).page(limit=10**9)}
    check_aliases(database, list(rows.values()))
    with database.read() as connection:
        versions = dict(connection.execute("SELECT version, hash FROM classifiers").fetchall())
        fits = {row["id"] for row in connection.execute("SELECT id FROM jobs")}
    for tag, sent in ledger.items():
        answer = sent.answer if sent.status in (200, 201, 202) else {}
        if answer.get("audit_id") is not None:
            assert rows[answer["audit_id"]].detail["reason"] == tag
        if sent.path == "/v1/classifiers" and answer:
            assert versions[answer["version"]] == answer["hash"]
        if sent.path == "/v1/tokens" and answer:
            assert Tokens(database).caller_of(answer["secret"]).name == "a test"
        if sent.path == "/v1/fits" and answer:
            assert answer["id"] in fits
    database.close()


def check_end(
    config: ServiceConfig, secret: str, ledger: Mapping[str, Sent], sources: list[Path]
) -> None:
    """Every fit that was accepted ends, each with the one version of what it published."""
    service = KilledService(config)
    url = service.url()
    hashes = {
        str(source): load_classifier(source / "classifiers" / "0").version for source in sources
    }
    with connected(url, secret) as client:
        accepted = [
            sent.answer["id"]
            for sent in ledger.values()
            if sent.path == "/v1/fits" and sent.status == 202
        ]
        fits = [until_ended(client, fit_id) for fit_id in accepted]
        assert {fit["status"] for fit in fits} == {"succeeded"}
        for fit in fits:
            (one,) = fit["classifiers"]
            version = client.get(f"/v1/classifiers/{one['version']}").json()
            assert version["hash"] == hashes[fit["source"]]
        assert any(fit["starts"] > 1 for fit in fits), "no kill came into a fit"
        assert client.get("/v1/audit/verify").json()["whole"]
    service.kill()
    database = Database.open(config.database, SCHEMAS)
    folder = config.state / "classifiers"
    check_folders(Registry(database, Audit(database), folder), folder)
    database.close()
