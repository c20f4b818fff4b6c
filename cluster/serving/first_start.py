"""First start of a service: a token to begin with, and the target's classifier in the registry."""

from calibrate.service.service import Service
from calibrate.service.state.tokens import Tokens
from cluster.serving.target import Target

_BY = "deepintuit serve"


def first_token(tokens: Tokens) -> str | None:
    """The secret of a new token with all rights, if no token may do anything; it is shown once."""
    if any(token.revoked_at is None for token in tokens.list()):
        return None
    return tokens.create("first start", ["admin"], by=_BY)


def register_target(service: Service, target: Target) -> str | None:
    """Register the target's classifier, and return what became of it, in words; None without one,
    or if it was registered before. It becomes champion if there is none, else challenger: who runs
    the service promotes it. Takes as long as reading its weights does."""
    if target.classifier is None:
        return None
    registry = service.registry
    before = {one.version for one in registry.list()}
    version = registry.register(target.classifier, source=target.source, by=_BY).version
    champion = registry.aliases().get("champion")
    if champion is None:
        registry.promote(version, by=_BY, expected_champion=None, reason="the first classifier")
        return f"classifier {version} of {target.source} is champion"
    if version in before:
        return None
    registry.set_challenger(version, by=_BY)
    return (
        f"classifier {version} of {target.source} is challenger; champion stays {champion} until "
        "you promote it"
    )
