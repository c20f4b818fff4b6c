from calibrate.splitting.early_stop import EmaStop


def run(values: list[float], **settings: float) -> tuple[int, int, int | None]:
    """Epochs run, best epoch, and the state that was kept."""
    stop: EmaStop[int] = EmaStop(**{"decay": 0.5, "patience": 3, "min_gain": 0.1, **settings})  # type: ignore[arg-type]
    for number, value in enumerate(values, 1):
        if stop.ends(value, lambda number=number: number):  # type: ignore[misc]
            return number, stop.best_epoch, stop.best
    return len(values), stop.best_epoch, stop.best


def test_it_ends_when_the_average_no_longer_gains_and_keeps_the_best_state():
    # averages 0, .5, 1.25, 1.63, 1.81, 1.91, 1.95, ...: the sixth gains .09, the seventh .14
    assert run([0.0, 1.0] + [2.0] * 10) == (10, 7, 7)


def test_the_average_and_not_the_value_is_watched():
    assert run([1.0, 0.0, 1.0, 0.0, 1.0, 0.0], decay=0.0, min_gain=0.0) == (4, 1, 1)
    assert run([0.0, 4.0, 0.0, 4.0], decay=0.9, patience=4) == (4, 4, 4)


def test_slow_gains_add_up():
    assert run([0.0, 0.06, 0.12, 0.18, 0.24, 0.30], decay=0.0)[0] == 6


def test_the_first_state_is_kept_where_nothing_is_better():
    assert run([5.0, 4.0, 3.0, 2.0, 1.0], decay=0.0) == (4, 1, 1)
