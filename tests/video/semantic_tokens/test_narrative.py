import random

import pytest

from video.semantic_tokens.narrative import (
    Run,
    by_name,
    codes_of,
    dropped,
    narrative_text,
    random_codes,
    reversed_runs,
    runs,
    shuffled,
)

NAMES = ("left", "up", "grow", "left")
STORY = runs((0, 0, 1, 2, 2, 2))


def test_equal_codes_in_a_row_are_one_run_with_its_duration():
    assert (Run(0, 2), Run(1, 1), Run(2, 3)) == STORY
    assert codes_of(STORY) == (0, 0, 1, 2, 2, 2)
    assert runs(()) == ()


def test_a_narrative_is_written_by_names_or_by_ids():
    assert narrative_text(STORY, NAMES) == "left x2, up, grow x3"
    assert narrative_text(STORY, NAMES, "ids") == "<act_0> x2 <act_1> <act_2> x3"
    assert narrative_text((), NAMES) == narrative_text((), NAMES, "ids") == "nothing"


def test_neighbouring_codes_of_one_name_are_one_action():
    assert narrative_text(runs((0, 3, 3, 1)), NAMES) == "left x3, up"
    assert by_name((3, 0, 1), NAMES) == (0, 0, 1)


def test_a_shuffled_narrative_has_the_same_actions_in_another_order():
    for clip in map(str, range(20)):
        mixed = shuffled(STORY, clip)
        assert mixed != STORY
        assert sorted(codes_of(mixed)) == sorted(codes_of(STORY))
    assert len({shuffled(STORY, str(clip)) for clip in range(20)}) > 2


def test_one_action_has_no_other_order():
    assert shuffled((Run(1, 4),), "a") == (Run(1, 4),)
    assert shuffled((), "a") == ()


def test_a_reversed_narrative_runs_backwards():
    assert reversed_runs(STORY) == (Run(2, 3), Run(1, 1), Run(0, 2))


def test_dropped_actions_are_gone_and_the_others_keep_their_order():
    long = runs(range(10))
    left = dropped(long, 0.3, "clip")
    assert len(left) == 7
    assert list(codes_of(left)) == sorted(codes_of(left))
    assert len({dropped(long, 0.3, str(clip)) for clip in range(10)}) > 5
    assert dropped(long, 0.01, "clip") == dropped(long, 0.1, "clip")  # at least one
    assert dropped(STORY, 1.0, "clip") == ()


def test_neighbours_that_a_dropped_action_leaves_together_are_one_run():
    story = runs((0, 0, 1, 0))
    assert {dropped(story, 0.3, str(clip)) for clip in range(20)} == {
        (Run(0, 3),),
        (Run(1, 1), Run(0, 1)),
        (Run(0, 2), Run(1, 1)),
    }


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_a_share_to_drop_that_is_none_is_refused(share: float):
    with pytest.raises(ValueError, match="expected a share of the actions"):
        dropped(STORY, share, "clip")


def test_random_codes_keep_the_durations_and_use_the_whole_codebook():
    story = runs(range(8))
    drawn = [code for clip in range(100) for code in codes_of(random_codes(story, 8, str(clip)))]
    assert len(codes_of(random_codes(STORY, 8, "a"))) == 6
    assert min(map(drawn.count, range(8))) > 60  # of 800, evenly


def test_controls_never_touch_the_random_state_and_depend_on_the_clip_alone():
    random.seed(1)
    state = random.getstate()
    first = shuffled(STORY, "a"), dropped(STORY, 0.5, "a"), random_codes(STORY, 8, "a")
    assert random.getstate() == state
    random.seed(2)
    assert first == (shuffled(STORY, "a"), dropped(STORY, 0.5, "a"), random_codes(STORY, 8, "a"))


def test_a_run_that_lasts_nothing_is_refused():
    with pytest.raises(ValueError, match="a duration at least 1"):
        Run(0, 0)
