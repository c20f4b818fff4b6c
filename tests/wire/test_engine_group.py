import threading
import time

import pytest

from wire.engine_group import GIVEN_UP, Meeting, Membership, join_store, open_store
from wire.errors import WeightUpdateError

PAIR = Membership(epoch=1, members=("a", "b"), ranks_per_engine=2)


def test_ranks_are_numbered_through_the_engines_behind_the_learners():
    assert PAIR.world_size == 5
    assert [PAIR.first_rank(name) for name in ("a", "b")] == [1, 3]
    assert PAIR.owners([0, 2]) == ["a"]
    assert PAIR.owners([1, 3, 4]) == ["a", "b"]


def test_the_same_names_are_another_group_after_a_restart():
    assert Membership(epoch=2, members=PAIR.members, ranks_per_engine=2) != PAIR


def test_who_is_absent_is_known_until_all_have_come():
    store = open_store()
    ours = Meeting(store, 1)
    theirs = Meeting(join_store("127.0.0.1", store.port, 60.0), 1)
    assert ours.absent([1, 2]) == [1, 2]
    theirs.come(2)
    assert ours.absent([1, 2]) == [1]
    ours.begin()
    theirs.wait_for_begin(1.0)
    assert ours.outside([1, 2], 7) == [1, 2]
    theirs.enter(1, 7)
    while len(ours.outside([1, 2], 7)) > 1:  # a store is told, and does not answer
        time.sleep(0.01)
    assert (ours.outside([1, 2], 7), ours.outside([1, 2], 8)) == ([2], [1, 2])


def test_generations_do_not_see_each_other():
    store = open_store()
    Meeting(store, 1).give_up()
    assert Meeting(store, 1).is_given_up
    assert not Meeting(store, 2).is_given_up


def test_whoever_waits_in_a_group_is_released_when_it_is_given_up():
    meeting = Meeting(open_store(), 1)
    threading.Timer(0.2, meeting.give_up).start()
    start = time.monotonic()
    with pytest.raises(WeightUpdateError, match=GIVEN_UP):
        meeting.wait_for_begin(60.0)
    assert time.monotonic() - start < 30


def test_a_group_that_does_not_come_together_is_given_up_within_the_deadline():
    with pytest.raises(WeightUpdateError, match=f"{GIVEN_UP}: it did not come together"):
        Meeting(open_store(), 1).wait_for_begin(0.1)


def test_a_learner_that_is_gone_counts_as_given_up():
    store = open_store()
    meeting = Meeting(join_store("127.0.0.1", store.port, 60.0), 1)
    assert not meeting.is_given_up
    del store
    assert meeting.is_given_up


def test_an_address_where_nobody_listens_is_named():
    with pytest.raises(WeightUpdateError, match=r"does not answer at 127\.0\.0\.1:1 within 1 s"):
        join_store("127.0.0.1", 1, 1.0)
