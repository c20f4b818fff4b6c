"""Divides clips into splits by ratio: each label alike, the same clips for the same seed."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping

from wire.errors import ConfigError
from wire.types import Split

_EXAMPLE = "train=0.8,val=0.1,cal=0.1"


def parse_ratio(text: str) -> dict[Split, float]:
    """``train=0.8,val=0.2`` -> shares that sum to 1. Raises ConfigError."""
    shares: dict[Split, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            split, share = Split(name), float(value)
        except ValueError as error:
            known = ", ".join(split.value for split in Split)
            raise ConfigError(
                f"--ratio got {part.strip()!r}, expected such as {_EXAMPLE} with splits {known}"
            ) from error
        if not 0 < share <= 1 or split in shares:
            raise ConfigError(f"--ratio got {text!r}; give each split once, a share above 0")
        shares[split] = share
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(f"--ratio {text} sums to {sum(shares.values()):g}, expected 1")
    return shares


def divide(labels: Mapping[str, str], shares: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """Key -> split, where ``labels`` gives the label of each key.

    Within each label, the size of every split is within one of its exact share. Raises ConfigError
    if a split gets nothing.
    """
    by_label = defaultdict(list)
    for key, label in labels.items():
        by_label[label].append(key)
    found: dict[str, Split] = {}
    for keys in by_label.values():
        keys.sort(key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
        start, reached = 0, 0.0
        for split, share in shares.items():
            reached += share
            end = round(reached * len(keys))
            found |= dict.fromkeys(keys[start:end], split)
            start = end
    if empty := [split.value for split in shares if split not in set(found.values())]:
        raise ConfigError(
            f"--ratio gives {', '.join(empty)} none of the {len(labels)} clips; raise its share"
        )
    return found
