"""The rewards as plain functions: they import nothing of DeepIntuit, and so do their tests."""

from clip_rewards.events import ordered_events
from clip_rewards.words import varied_words


def test_events_in_their_order_earn_the_full_reward():
    events = ["stands up", "falls"]
    assert ordered_events("He stands up, then falls.", "fall", events) == {
        "score": 1.0,
        "num_named": 2.0,
    }


def test_events_in_another_order_earn_a_part():
    named = ordered_events("He falls. Before, he stands up.", "fall", ["stands up", "falls"])
    assert named is not None
    assert named["score"] == 0.5


def test_a_clip_without_events_is_left_out():
    assert ordered_events("He falls.", "fall") is None


def test_malformed_output_earns_nothing():
    for text in ("", "<think>", "\x00"):
        assert ordered_events(text, "fall", ["falls"]) == {"score": 0.0, "num_named": 0.0}
    assert varied_words(["", "\x00"]) == [0.0, 0.0]


def test_words_that_others_use_count_less():
    assert varied_words(["person walks", "person jumps", "walks"]) == [0.0, 0.5, 0.0]
