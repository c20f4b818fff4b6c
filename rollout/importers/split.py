"""Divides clips into splits by ratio: each label alike, the same clips for the same seed.

Which split a clip gets follows from its id, the seed and the other ids, never from the order of
rows. With groups, a group stays whole.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from wire.errors import ConfigError
from wire.types import Split

_EXAMPLE = "train=0.8,val=0.1,cal=0.1"

Shares = Mapping[Split, float]


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
            raise ConfigError(
                f"--ratio got {text!r}; give each split once, a share above 0 and at most 1"
            )
        shares[split] = share
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(f"--ratio {text} sums to {sum(shares.values()):g}, expected 1")
    return shares


def divide(
    labels: Mapping[str, str],
    shares: Shares,
    seed: int,
    groups: Mapping[str, str] | None = None,
) -> dict[str, Split]:
    """Key -> split, where ``labels`` gives the label of each key, ``groups`` what it belongs to.

    Without groups, the size of every split within each label is its exact share rounded up or
    down. With groups, each split is at most one group above its exact share, and labels are as
    even as that allows. Raises ConfigError if a split gets nothing.
    """
    groups = groups or {}
    members = defaultdict(list)
    for key in sorted(labels):
        members[groups.get(key, key)].append(key)
    if len(members) == len(labels):
        split_of = _by_label(labels, shares, seed)
    else:
        split_of = _by_group(labels, list(members.values()), shares, seed)
    if empty := [split.value for split in shares if split not in set(split_of.values())]:
        of = "" if len(members) == len(labels) else f" in {len(members)} groups"
        raise ConfigError(
            f"--ratio gives {', '.join(empty)} none of the {len(labels)} clips{of}; raise its share"
        )
    return split_of


def link(keys: Iterable[str], ties: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Key -> its group, named by its first key in the alphabet.

    Two keys are in one group if any of the ``ties`` gives both the same value, or if others link
    them.
    """
    group = {key: key for key in keys}

    def root(key: str) -> str:
        while group[key] != key:
            group[key] = key = group[group[key]]
        return key

    for tie in ties:
        first: dict[str, str] = {}
        for key, value in tie.items():
            one, other = sorted((root(first.setdefault(value, key)), root(key)))
            group[other] = one
    return {key: root(key) for key in group}


def _by_label(labels: Mapping[str, str], shares: Shares, seed: int) -> dict[str, Split]:
    """Each label by itself. Of the clips that rounding leaves over, each goes to the split that
    is owed most by then, so that many small labels add up to the ratio too."""
    by_label = defaultdict(list)
    for key, label in labels.items():
        by_label[label].append(key)
    owed = dict.fromkeys(shares, 0.0)
    split_of: dict[str, Split] = {}
    for _, keys in sorted(by_label.items(), key=lambda item: (-len(item[1]), item[0])):
        keys.sort(key=lambda key: _hash(seed, key))
        sizes = _sizes(len(keys), shares, owed)
        start = 0
        for split, size in sizes.items():
            owed[split] += shares[split] * len(keys) - size
            split_of |= dict.fromkeys(keys[start : start + size], split)
            start += size
    return split_of


def _sizes(count: int, shares: Shares, owed: Mapping[Split, float]) -> dict[Split, int]:
    """Number of one label's clips that each split gets: its exact share, rounded up or down.

    The largest split is never without: a label that is not trained on cannot be learned.
    """
    exact = {split: share * count for split, share in shares.items()}
    sizes = {split: int(value + 1e-9) for split, value in exact.items()}
    largest = max(shares, key=lambda split: shares[split])
    order = sorted(
        (split for split in shares if exact[split] - sizes[split] > 1e-9),
        key=lambda split: (
            sizes[split] > 0 or split is not largest,
            -round(owed[split] + exact[split] - sizes[split], 9),
        ),
    )
    for split in order[: count - sum(sizes.values())]:
        sizes[split] += 1
    return sizes


def _by_group(
    labels: Mapping[str, str], members: Sequence[Sequence[str]], shares: Shares, seed: int
) -> dict[str, Split]:
    """The largest group first, each to a split that is not full yet: of those, to the one whose
    labels it brings nearest to their share."""
    totals = Counter(labels.values())
    has: dict[Split, Counter[str]] = {split: Counter() for split in shares}
    size = dict.fromkeys(shares, 0)
    split_of: dict[str, Split] = {}
    for keys in sorted(members, key=lambda keys: (-len(keys), _hash(seed, keys[0]))):
        counts = Counter(labels[key] for key in keys)
        open_splits = [s for s in shares if size[s] < shares[s] * len(labels) - 1e-9]
        best = max(open_splits, key=lambda split: _need(counts, has[split], totals, shares[split]))
        has[best].update(counts)
        size[best] += len(keys)
        split_of |= dict.fromkeys(keys, best)
    return split_of


def _need(
    counts: Counter[str], has: Counter[str], totals: Counter[str], share: float
) -> tuple[float, float]:
    """Number of clips that a split lacks of the labels of a group, each clip relative to the exact
    share."""
    lack = sum(n * (1 - has[label] / (share * totals[label])) for label, n in counts.items())
    return round(lack, 9), share


def _hash(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()
