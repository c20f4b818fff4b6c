"""Caller of the service: whose token a request bears, and what it may do."""

from dataclasses import dataclass
from typing import Literal

Scope = Literal["classify", "read", "review", "fit", "admin"]
SCOPES: tuple[Scope, ...] = ("classify", "read", "review", "fit", "admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Caller of a request.

    Example:
        Caller(token_id="tok_1", name="labelling team", scopes=frozenset({"classify", "review"}))
    """

    token_id: str
    name: str
    """For people; stands in audit rows."""
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the token has the scope; ``admin`` has all."""
        return scope in self.scopes or "admin" in self.scopes
