"""Tokens of callers: bearer secrets with scopes, of which only hashes are stored.

    secret = tokens.create("labelling", ["classify", "review"], by="ada")   # shown this once
    tokens.caller_of(secret) -> Caller, or Problem 401

A secret is ``di_ID_`` and 43 random characters (256 bits), so that one plain SHA-256 of it is
enough: there is nothing to guess. The prefix lets scanners for leaked secrets find it.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calibrate.service.caller import SCOPES, Caller, Scope
from calibrate.service.problems import Problem
from calibrate.service.state.audit import Audit, utc_now
from calibrate.service.state.database import Database, Schema
from wire.errors import ConfigError

SCHEMA = Schema(
    "tokens",
    (
        """
        CREATE TABLE tokens (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            scopes TEXT NOT NULL,
            digest BLOB NOT NULL,
            created_at TEXT NOT NULL,
            created_by TEXT NOT NULL,
            revoked_at TEXT,
            revoked_by TEXT
        );
        """,
    ),
)

_SECRET = re.compile(r"di_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_MAX_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """Facts about a token; its secret is not among them."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: str
    created_by: str
    revoked_at: str | None
    revoked_by: str | None

    def as_json(self) -> dict[str, Any]:
        """Its fields by name."""
        return {**asdict(self), "scopes": list(self.scopes)}


class Tokens:
    """Tokens of a database. Each change has a row in its audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._audit = Audit(database)

    def create(self, name: str, scopes: Sequence[str], by: str) -> str:
        """Create a token and return its secret, which cannot be read again. Raises ConfigError for
        an empty name or a scope that there is not."""
        given = _checked(name, scopes)
        token_id = secrets.token_hex(6)
        secret = f"di_{token_id}_{secrets.token_urlsafe(32)}"
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)",
                (token_id, name, " ".join(given), _digest(secret), utc_now(), by),
            )
            detail = {"name": name, "scopes": list(given)}
            self._audit.append(connection, by, "token.created", f"tokens/{token_id}", detail)
        return secret

    def caller_of(self, bearer: str) -> Caller:
        """Caller whose token this is. Raises Problem 401, in the same words for a token that never
        was, was revoked, or has another secret; the digests are compared in constant time."""
        parts = _SECRET.fullmatch(bearer)
        token_id = parts[1] if parts else ""
        with self._database.read() as connection:
            row = connection.execute("SELECT * FROM tokens WHERE id = ?", (token_id,)).fetchone()
        expected = row["digest"] if row else bytes(32)
        equal = hmac.compare_digest(_digest(bearer), expected)
        if row is None or not equal or row["revoked_at"] is not None:
            raise Problem(
                401,
                "invalid-token",
                "the bearer token is unknown or was revoked; ask who runs this service for one "
                "(deepintuit serve STATE --new-token NAME)",
                headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        facts = _facts(dict(row))
        return Caller(token_id=facts.id, name=facts.name, scopes=frozenset(facts.scopes))

    def revoke(self, token_id: str, by: str = "operator") -> None:
        """Revoke a token: from now on it is refused. Raises Problem 404 if there is none; one that
        was revoked stays so."""
        with self._database.write() as connection:
            row = connection.execute("SELECT * FROM tokens WHERE id = ?", (token_id,)).fetchone()
            if row is None:
                raise Problem(404, "no-such-token", f"there is no token {token_id!r}; list them")
            if row["revoked_at"] is not None:
                return
            connection.execute(
                "UPDATE tokens SET revoked_at = ?, revoked_by = ? WHERE id = ?",
                (utc_now(), by, token_id),
            )
            detail = {"name": row["name"]}
            self._audit.append(connection, by, "token.revoked", f"tokens/{token_id}", detail)

    def list(self) -> tuple[TokenFacts, ...]:
        """All tokens, from the oldest on, the revoked ones too."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT * FROM tokens ORDER BY created_at, id").fetchall()
        return tuple(_facts(dict(row)) for row in rows)


def _checked(name: str, scopes: Sequence[str]) -> tuple[Scope, ...]:
    """The scopes in their order, each once."""
    if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
        raise ConfigError(
            f"a token's name is {name[:80]!r}; expected 1 to {_MAX_NAME} printable characters, who "
            "or what it is for"
        )
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ConfigError(
            f"scopes {', '.join(unknown) or '(none)'} for a token; expected some of "
            f"{', '.join(SCOPES)}"
        )
    return tuple(scope for scope in SCOPES if scope in scopes)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _facts(row: dict[str, Any]) -> TokenFacts:
    known = set(row["scopes"].split())
    del row["digest"]
    return TokenFacts(**{**row, "scopes": tuple(scope for scope in SCOPES if scope in known)})
