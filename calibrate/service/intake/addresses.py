"""Addresses that a URL may lead to: those of the public internet.

Private, loopback, link-local, multicast, reserved ones, and IPv6 addresses that carry one of them,
would let a client reach what only this machine can: other services of it, a cloud's metadata.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

_CARRIES_LAST_32 = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
"""NAT64 and the old "compatible" form: an IPv4 address at the end."""
_NOT_GLOBAL = (IPv6Network("64:ff9b:1::/48"), IPv6Network("fec0::/10"))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet. Raises ValueError if it is none."""
    one = ip_address(address.partition("%")[0])
    if isinstance(one, IPv4Address):
        return _is_public_4(one)
    inner = _inner(one)
    if inner is not None:
        return _is_public_4(inner)
    return (
        one.is_global
        and not (one.is_multicast or one.is_reserved or one.is_site_local)
        and not any(one in network for network in _NOT_GLOBAL)
    )


def _is_public_4(one: IPv4Address) -> bool:
    return one.is_global and not (one.is_multicast or one.is_reserved or one.is_unspecified)


def _inner(one: IPv6Address) -> IPv4Address | None:
    """IPv4 address that an IPv6 one leads to: mapped, 6to4, NAT64."""
    if one.ipv4_mapped is not None:
        return one.ipv4_mapped
    if one.sixtofour is not None:
        return one.sixtofour
    if one.teredo is not None:
        return one.teredo[1]
    if any(one in network for network in _CARRIES_LAST_32):
        return IPv4Address(int(one) & 0xFFFFFFFF)
    return None
