import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.metrics.work_clock import WorkClock


def test_a_workers_idle_share_is_the_time_without_any_answer_in_work():
    clock = WorkClock(0.0)
    clock.begin("rollout-0", "answer", 1.0)
    clock.begin("rollout-0", "answer", 2.0)
    clock.end("rollout-0", "answer", 4.0)
    clock.end("rollout-0", "answer", 6.0)
    shares = clock.take(10.0, {"rollout-0", "rollout-1"})
    assert shares.idle == pytest.approx({"rollout-0": 0.5, "rollout-1": 1.0})
    assert shares.figures()["rollouter/idle_ratio"] == pytest.approx(0.75)
    assert shares.figures()["rollouter/idle_ratio_max"] == pytest.approx(1.0)


def test_an_answer_over_the_end_of_a_step_counts_in_both():
    clock = WorkClock(0.0)
    clock.begin("rollout-0", "answer", 6.0)
    assert clock.take(10.0, ()).idle == pytest.approx({"rollout-0": 0.6})
    clock.end("rollout-0", "answer", 13.0)
    assert clock.take(20.0, ()).idle == pytest.approx({"rollout-0": 0.7})
    assert clock.busy_s["rollout-0"] == pytest.approx(7.0)
    assert clock.present_s["rollout-0"] == pytest.approx(20.0)


def test_starting_an_engine_is_no_work_and_limits_nothing():
    clock = WorkClock(0.0)
    clock.begin("driver", "gen", 0.0)
    clock.begin("rollout-0", "start", 0.0)
    clock.end("rollout-0", "start", 4.0)
    shares = clock.take(4.0, {"rollout-0"})
    assert shares.idle == {"rollout-0": 1.0}
    assert shares.limits["other"] == pytest.approx(1.0)


def test_a_rank_that_had_work_once_is_idle_when_it_has_none():
    clock = WorkClock(0.0)
    clock.begin("rank-0", "train_step", 0.0)
    clock.end("rank-0", "train_step", 1.0)
    assert clock.take(2.0, ()).figures()["trainer/idle_ratio"] == pytest.approx(0.5)
    assert clock.take(3.0, ()).figures()["trainer/idle_ratio"] == pytest.approx(1.0)


def test_waiting_belongs_to_generation_while_a_worker_answers_and_else_to_reward():
    clock = WorkClock(0.0)
    clock.begin("driver", "gen", 0.0)
    clock.begin("rollout-0", "answer", 1.0)
    clock.begin("reward", "score", 2.0)
    clock.end("rollout-0", "answer", 5.0)
    clock.end("reward", "score", 6.0)
    clock.end("driver", "gen", 7.0)
    clock.begin("driver", "update_actor", 7.0)
    clock.end("driver", "update_actor", 9.0)
    clock.begin("driver", "update_weights", 9.0)
    clock.end("driver", "update_weights", 10.0)
    limits = clock.take(10.0, ()).limits
    assert limits == pytest.approx(
        {"generation": 0.4, "reward": 0.1, "learner": 0.2, "weights": 0.1, "other": 0.2}
    )


def test_a_learner_that_is_never_waited_for_limits_the_step_whatever_goes_on_beside():
    clock = WorkClock(0.0)
    clock.begin("rollout-0", "answer", 0.0)
    clock.begin("driver", "update_actor", 0.0)
    assert clock.take(3.0, ()).limits["learner"] == pytest.approx(1.0)


def test_a_stage_counts_nothing_of_what_was_before_it():
    clock = WorkClock(0.0)
    clock.begin("driver", "gen", 0.0)  # of a stage that stopped early
    clock.begin("rank-0", "train_step", 1.0)
    clock.end("rank-0", "train_step", 2.0)
    clock.begin("rollout-0", "answer", 3.0)
    clock.restart(5.0)
    clock.begin("driver", "update_actor", 5.0)
    shares = clock.take(7.0, {"rollout-0"})
    assert shares.idle == {"rollout-0": 0.0}
    assert shares.limits["learner"] == pytest.approx(1.0)


_TRACKS = st.sampled_from(
    [("rollout-0", "answer"), ("rollout-1", "answer"), ("reward", "score"), ("driver", "gen"),
     ("driver", "update_actor"), ("rank-0", "train_step"), ("rollout-0", "start")]
)  # fmt: skip


@given(st.lists(st.tuples(_TRACKS, st.floats(0, 3), st.booleans()), max_size=60))
def test_shares_add_up_to_one_and_none_leaves_its_range(
    changes: list[tuple[tuple[str, str], float, bool]],
):
    clock, now, opened = WorkClock(0.0), 0.0, list[tuple[str, str]]()
    for what, later, takes in changes:
        now += later
        if what in opened:
            opened.remove(what)
            clock.end(*what, now)
        else:
            opened.append(what)
            clock.begin(*what, now)
        if takes and later > 1e-3:
            shares = clock.take(now, {"rollout-0"})
            assert sum(shares.limits.values()) == pytest.approx(1.0)
            assert all(0 <= share <= 1 for share in shares.idle.values())
