"""Which entries a full cache keeps: hits in proportion to its room, where LRU finds nothing."""

import random
from collections import OrderedDict
from functools import cache
from pathlib import Path

import pytest

from video.disk_cache.retention import STALE_S, Entry, hit_rate, largest_kept, surplus
from wire.types import stable_hash

EPOCHS = 2


path_of = cache(Path)


class SimulatedCache:
    """A cache of entries of one byte, looked at after each 2% of its bound (the real one: 1%)."""

    def __init__(self, room: int, window_share: float) -> None:
        self.room, self.window_share = room, window_share
        self.used_s: dict[str, float] = {}
        self.written, self.largest = 0, None
        self.unlooked = 0

    def access(self, key: str, now_s: float) -> bool:
        hit = key in self.used_s
        if hit or self.window_share or self.largest is None or key <= self.largest:
            self.used_s[key] = now_s
        if not hit and key in self.used_s:
            self.written += 1
            self.unlooked += 1
            if self.unlooked >= 0.02 * self.room:
                self.look(now_s)
        return hit

    def look(self, now_s: float) -> None:
        self.unlooked = 0
        entries = [Entry(path_of(key), 1, used) for key, used in self.used_s.items()]
        gone = []
        if len(entries) > self.room:
            window = self.window_share * self.room
            gone = surplus(entries, int(0.98 * self.room), now_s, window)
        for entry in gone:
            del self.used_s[entry.key]
        left = set(entries) - set(gone)
        self.largest = largest_kept(left, self.room, now_s)


def last_epoch(keys: list[str], room: int, window_share: float) -> tuple[float, float]:
    """Hit rate and share of misses that were written, in the last of some shuffled epochs."""
    held, draw, now = SimulatedCache(room, window_share), random.Random(7), 0.0
    hits = 0
    for _ in range(EPOCHS):
        hits, written = 0, held.written
        for key in draw.sample(keys, len(keys)):
            now += 1.0
            hits += held.access(key, now)
    return hits / len(keys), (held.written - written) / (len(keys) - hits or 1)


def lru_hit_rate(keys: list[str], room: int) -> float:
    draw, held, hits = random.Random(7), OrderedDict[str, None](), 0
    for _ in range(EPOCHS):
        hits = 0
        for key in draw.sample(keys, len(keys)):
            hits += key in held
            held[key] = None
            held.move_to_end(key)
            if len(held) > room:
                held.popitem(last=False)
    return hits / len(keys)


@pytest.mark.parametrize("room", [697, 1826])
def test_a_cache_too_small_for_its_set_hits_in_proportion_to_its_room(room: int):
    """50 GiB of the reference case's pixels, and of its embeddings, with 30,000 clips."""
    keys = [stable_hash(number)[:40] for number in range(30_000)]
    assert lru_hit_rate(keys, room) < 0.005
    share = room / len(keys)
    embeddings, embeddings_written = last_epoch(keys, room, window_share=0.0)
    assert embeddings == pytest.approx(share, rel=0.1)
    assert embeddings == pytest.approx(hit_rate(30_000, room), rel=0.05)
    assert embeddings_written < 0.01, "what would not stay is not written"


def test_a_window_for_what_was_used_last_leaves_the_subset_its_room():
    keys = [stable_hash(number)[:40] for number in range(2000)]
    clips, _ = last_epoch(keys, 200, window_share=0.05)
    assert clips == pytest.approx(0.1, rel=0.1)
    assert clips == pytest.approx(hit_rate(2000, 200, window_share=0.05), rel=0.05)


def test_where_all_fits_nothing_is_evicted_and_everything_is_found():
    keys = [stable_hash(number)[:40] for number in range(500)]
    for window_share in (0.0, 0.05):
        assert last_epoch(keys, 500, window_share)[0] == 1.0
    assert hit_rate(500, 500) == 1.0


def test_entries_of_a_former_run_make_way_for_those_in_use():
    def entry(key: str, used_s: float) -> Entry:
        return Entry(Path(key), 1, used_s)

    now = 10 * STALE_S
    old = [entry(f"0{n}", now - STALE_S - n) for n in range(4)]
    new = [entry(f"f{n}", now - n) for n in range(4)]
    assert surplus([*old, *new], 6, now) == [old[3], old[2]]
    assert surplus([*old, *new], 2, now) == [*reversed(old), new[3], new[2]]
    assert surplus([*old, *new], 8, now) == []
    assert largest_kept([*old, *new], 8, now) is None, "there is room: the old ones will go"
    assert largest_kept(new, 4, now) == "f3"
    assert largest_kept(new, 5, now) == "f3", "a fifth would be deleted at the next look"
    assert largest_kept(new, 6, now) is None


def test_a_window_smaller_than_an_entry_protects_none():
    entries = [Entry(Path(f"{n}"), 10, 100.0 + n) for n in range(3)]
    assert surplus(entries, 20, 110.0, window=5) == [entries[2]]
    assert surplus(entries, 20, 110.0, window=10) == [entries[1]]
    assert surplus([], 0, 110.0) == []
