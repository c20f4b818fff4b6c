"""Routes of tokens: make, list and revoke what callers bear. All need the scope admin."""

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from calibrate.service.caller import Scope
from calibrate.service.routes.context import MayAdmin, ServiceDep, problems
from calibrate.service.state.tokens import TokenFacts

router = APIRouter(prefix="/v1/tokens", tags=["tokens"])

TokenId = Annotated[str, Path(min_length=1, max_length=64)]


class NewToken(BaseModel):
    """Token to create."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=200)
    """Who or what it is for; stands in the audit log."""
    scopes: list[Scope] = Field(min_length=1, max_length=5)


class CreatedToken(BaseModel):
    """Token that was created, with its secret, which is not stored and not shown again."""

    token: TokenFacts
    secret: str


class TokenList(BaseModel):
    """All tokens, from the oldest on, the revoked ones too."""

    tokens: list[TokenFacts]


@router.post("", status_code=201)
async def create(new: NewToken, service: ServiceDep, caller: MayAdmin) -> CreatedToken:
    """Create a token. Its answer is kept nowhere, so an ``Idempotency-Key`` counts for nothing:
    after a lost answer list the tokens, and revoke the one whose secret nobody has."""
    secret = await service.database.run(
        lambda: service.tokens.create(new.name, new.scopes, by=caller.name)
    )
    known = await service.database.run(service.tokens.list)
    created = next(one for one in known if one.id == secret.split("_")[1])
    return CreatedToken(token=created, secret=secret)


@router.get("")
async def every(service: ServiceDep, _caller: MayAdmin) -> TokenList:
    """All tokens, without their secrets."""
    return TokenList(tokens=list(await service.database.run(service.tokens.list)))


@router.delete("/{token_id}", status_code=204, responses=problems(404))
async def revoke(token_id: TokenId, service: ServiceDep, caller: MayAdmin) -> Response:
    """Revoke a token: its next request is refused. Revoked tokens stay in the list."""
    await service.database.run(lambda: service.tokens.revoke(token_id, by=caller.name))
    return Response(status_code=204)
