from calibrate.service.serving.restarts import RestartPolicy, Restarts


def test_restarts_come_later_and_later_then_cool_down_then_begin_anew() -> None:
    now = [0.0]
    policy = RestartPolicy(most=5, first_pause_s=1.0, longest_pause_s=3.0)
    restarts = Restarts(policy, clock=lambda: now[0])
    assert [restarts.pause_s() for _ in range(6)] == [0.0, 1.0, 2.0, 3.0, 3.0, None]
    assert restarts.pause_s() == 0.0


def test_restarts_long_ago_do_not_count() -> None:
    now = [0.0]
    restarts = Restarts(RestartPolicy(most=2, within_s=10.0), clock=lambda: now[0])
    for hour in range(5):
        now[0] = 3600.0 * hour
        assert restarts.pause_s() == 0.0
