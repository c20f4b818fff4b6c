"""Retention of cache entries, pure: which ones a full cache keeps, and what hit rate that gives.

    entries, first to go first: not used for days -> largest keys -> used a moment ago

Least-recently-used finds nothing in epochs that are shuffled: with room for 2% of the clips its hit
rate is 0.0003. Keys are hashes, so the entries with the smallest are a random subset, and the same
one for every process, node and epoch without a word between them: the hit rate is room / set.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

STALE_S = 3 * 86_400.0
"""An entry that was not used for so long is a former run's: longer than an epoch takes."""
KEPT_SHARE = 0.98
"""Share of the bound that is kept after deleting, so that the next entries need no other look."""
_FULL_SHARE = 0.9
WINDOW_SHARE = 0.05
"""Share of the clip cache for the clips used last: what an engine is shown, a learner on the same
node trains on a few steps later."""


@dataclass(frozen=True, slots=True)
class Entry:
    """File of a cache entry, whose name is the key."""

    path: Path
    num_bytes: int
    used_s: float
    """When it was last used, seconds of the epoch."""

    @property
    def key(self) -> str:
        """The entry's key."""
        return self.path.stem


def surplus(entries: Sequence[Entry], bound: int, now_s: float, window: float = 0.0) -> list[Entry]:
    """Entries to delete, so that at most ``bound`` bytes are left.

    ``window``: bytes of the entries used last that stay whatever their keys, for another process
    that is about to use the same ones.
    """
    excess = sum(entry.num_bytes for entry in entries) - bound
    gone: list[Entry] = []
    for entry in _order(entries, now_s, window):
        if excess <= 0:
            break
        gone.append(entry)
        excess -= entry.num_bytes
    return gone


def largest_kept(kept: Iterable[Entry], bound: int, now_s: float) -> str | None:
    """Largest key worth an entry in a cache that is full with what runs use; None: any is."""
    used = [entry for entry in kept if now_s - entry.used_s < STALE_S]
    total = sum(entry.num_bytes for entry in used)
    with_one_more = total + max((entry.num_bytes for entry in used), default=0)
    if total < _FULL_SHARE * bound and with_one_more <= KEPT_SHARE * bound:
        return None
    return max((entry.key for entry in used), default=None)


def hit_rate(set_bytes: float, max_bytes: float, window_share: float = 0.0) -> float:
    """Share of accesses that a cache of ``max_bytes`` answers, when each epoch uses a set of
    ``set_bytes`` once in another order."""
    if set_bytes <= max_bytes:
        return 1.0
    return (KEPT_SHARE - window_share) * max_bytes / set_bytes


def _order(entries: Sequence[Entry], now_s: float, window: float) -> list[Entry]:
    """First to go first."""
    newest_first = sorted(entries, key=lambda entry: -entry.used_s)
    used = [entry for entry in newest_first if now_s - entry.used_s < STALE_S]
    stale = newest_first[len(used) :]
    recent = 0
    for entry in used:
        if window < entry.num_bytes:
            break
        window -= entry.num_bytes
        recent += 1
    by_key = sorted(used[recent:], key=lambda entry: entry.path.name, reverse=True)
    return [*reversed(stale), *by_key, *reversed(used[:recent])]
