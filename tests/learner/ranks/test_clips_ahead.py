import threading
from typing import Any

from learner.ranks.clips_ahead import MOST_PENDING, ClipsAhead
from tests.learner.builders import make_clip


class Decoder:
    """Makes clips ready once it is let."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.made: list[str] = []
        self.done = threading.Semaphore(0)

    def prepare(self, video: str) -> None:
        assert self.go.wait(10)
        self.made.append(video)
        self.done.release()
        if video == "broken":
            raise RuntimeError("a decoder that is broken is none of the training's business")

    def has(self, clip_key: str) -> bool:
        return clip_key in self.made

    def load(self, clip_key: str, address: str, fingerprint: str) -> Any:
        if not self.has(clip_key):
            self.prepare(address)
        return make_clip(len(clip_key))

    def wait_for(self, count: int) -> list[str]:
        for _ in range(count):
            assert self.done.acquire(timeout=10)
        return self.made


def test_clips_are_made_ready_in_their_order_while_the_caller_goes_on():
    decoder = Decoder()
    ahead = ClipsAhead(decoder, 1)
    for video in ("a", "broken", "b"):
        ahead.submit(video)
    assert decoder.made == [], "nothing waited for the decoder"
    decoder.go.set()
    assert decoder.wait_for(3) == ["a", "broken", "b"]


def test_a_clip_that_is_on_its_way_is_not_asked_for_twice_and_too_many_are_dropped():
    decoder = Decoder()
    ahead = ClipsAhead(decoder, 1)
    for number in range(2 * MOST_PENDING):
        ahead.submit("first")
        ahead.submit(f"{number}")
    decoder.go.set()
    expected = ["first", *[f"{number}" for number in range(MOST_PENDING - 1)]]
    assert decoder.wait_for(MOST_PENDING) == expected


def test_a_rank_waits_for_a_clip_only_if_it_is_not_ready():
    decoder = Decoder()
    decoder.go.set()
    ahead = ClipsAhead(decoder, 1)
    ahead.submit("a")
    decoder.wait_for(1)
    ahead.load("a", "a", "f")
    assert ahead.take_waited_s() == 0.0
    ahead.load("b", "b", "f")
    assert ahead.take_waited_s() > 0
    assert ahead.take_waited_s() == 0.0, "counted once"
