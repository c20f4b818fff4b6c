import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from calibrate.service.problems import Problem
from calibrate.service.state import audit, tokens
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database
from calibrate.service.state.tokens import Tokens
from wire.errors import ConfigError


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "s.sqlite", [audit.SCHEMA, tokens.SCHEMA])
    yield database
    database.close()


def refusal(database: Database, bearer: str) -> Problem:
    with pytest.raises(Problem) as error:
        Tokens(database).caller_of(bearer)
    return error.value


def test_a_secret_names_its_caller_and_its_scopes(database: Database):
    secret = Tokens(database).create("labelling", ["review", "classify", "review"], by="ada")
    assert re.fullmatch(r"di_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", secret)
    caller = Tokens(database).caller_of(secret)
    assert caller.name == "labelling"
    assert caller.token_id == secret.split("_")[1]
    assert caller.may("review")
    assert not caller.may("fit")
    (facts,) = Tokens(database).list()
    assert facts.scopes == ("classify", "review")
    assert facts.created_by == "ada"


def test_no_secret_is_in_the_file(database: Database):
    secret = Tokens(database).create("labelling", ["read"], by="ada")
    database.close()
    for file in database.path.parent.iterdir():
        content = file.read_bytes()
        assert secret.split("_", 2)[2].encode() not in content, file


def test_other_secrets_are_refused_in_the_same_words(database: Database):
    secret = Tokens(database).create("labelling", ["read"], by="ada")
    gone = Tokens(database).create("gone", ["read"], by="ada")
    Tokens(database).revoke(gone.split("_")[1], by="ada")
    other = secret[:-1] + ("a" if secret[-1] != "a" else "b")
    unknown = "di_000000000000_" + "x" * 43
    wrong = [other, gone, unknown, "", "di_", secret + "\n", secret.upper(), "\udcff", "é" * 9]
    problems = [refusal(database, bearer) for bearer in wrong]
    assert {problem.status for problem in problems} == {401}
    assert len({problem.detail for problem in problems}) == 1
    assert problems[0].headers["WWW-Authenticate"].startswith("Bearer")


def test_a_revoked_token_stays_revoked_and_both_changes_are_in_the_audit_log(database: Database):
    secret = Tokens(database).create("labelling", ["admin"], by="ada")
    token_id = secret.split("_")[1]
    for _ in range(2):
        Tokens(database).revoke(token_id, by="bob")
    (facts,) = Tokens(database).list()
    assert facts.revoked_by == "bob"
    rows = Audit(database).page(limit=9)
    assert [(row.actor, row.action) for row in rows] == [
        ("bob", "token.revoked"),
        ("ada", "token.created"),
    ]
    assert {row.subject for row in rows} == {f"tokens/{token_id}"}
    assert secret not in str(rows)
    with pytest.raises(Problem, match="no token"):
        Tokens(database).revoke("nobody")


@pytest.mark.parametrize(
    ("name", "scopes"),
    [("", ["read"]), ("a\x00b", ["read"]), ("n" * 201, ["read"]), ("a", []), ("a", ["root"])],
)
def test_a_token_needs_a_name_and_known_scopes(database: Database, name: str, scopes: list[str]):
    with pytest.raises(ConfigError, match="expected"):
        Tokens(database).create(name, scopes, by="ada")
    assert Tokens(database).list() == ()
