import pytest

from video.semantic_tokens.explanation import EventNames, Support, support_figures

EVENTS = EventNames(["left", "left hand", "grow"])


def test_events_are_found_as_whole_words_in_any_case_the_longer_name_first():
    assert EVENTS.named_in("Grow, then LEFT  hand; growing leftovers") == ("grow", "left hand")
    assert EVENTS.named_in("left left, hand") == ("left",)


def test_a_name_with_signs_of_a_pattern_is_taken_literally():
    assert EventNames(["a.b", "c+"]).named_in("axb c+ a.b") == ("c+", "a.b")


def test_without_names_nothing_is_found():
    assert EventNames([]).named_in("left") == ()
    assert EventNames(["", " "]).named_in("left") == ()


def test_support_counts_each_event_once():
    support = EVENTS.support("left left grow", ["left", "left hand"])
    assert support == Support(num_named=2, num_supported=1, num_narrated=2)


def test_figures_are_shares_of_events_not_of_clips():
    own = [
        Support(num_named=3, num_supported=3, num_narrated=3),
        Support(num_named=1, num_supported=0, num_narrated=2),
        Support(num_named=0, num_supported=0, num_narrated=1),
    ]
    figures = support_figures(own, [Support(num_named=4, num_supported=1, num_narrated=9)])
    assert figures.supported_frac == pytest.approx(3 / 4)
    assert figures.elsewhere_frac == pytest.approx(1 / 4)
    assert figures.coverage == pytest.approx(1 / 2)
    assert (figures.num_named, figures.num_unnamed) == (4, 1)


def test_what_is_not_counted_has_no_share():
    figures = support_figures([], [])
    assert (figures.supported_frac, figures.elsewhere_frac, figures.coverage) == (None, None, None)
