from cluster.driver.units import format_bytes, format_duration, format_hours


def test_durations_are_in_their_largest_unit():
    assert [format_duration(s) for s in (0, 119, 120, 7_199, 7_200, 172_800)] == [
        "0 s",
        "119 s",
        "2 min",
        "120 min",
        "2 h",
        "2 d",
    ]


def test_long_durations_are_in_hours_and_minutes():
    assert [format_hours(s) for s in (0, 89, 3_569, 3_570, 90_000)] == [
        "0 min",
        "1 min",
        "59 min",
        "1 h 0 min",
        "25 h 0 min",
    ]


def test_sizes_are_in_decimal_units():
    assert [format_bytes(n) for n in (0, 999_949, 10**6, 999_900_000, 10**9, 2.5e12)] == [
        "0.0 kB",
        "999.9 kB",
        "1.0 MB",
        "999.9 MB",
        "1.0 GB",
        "2500.0 GB",
    ]


def test_a_unit_may_be_used_from_another_size_on():
    sizes = [format_bytes(n, gb_from=10**8, mb_from=0) for n in (0, 99_900_000, 10**8)]
    assert sizes == ["0.0 MB", "99.9 MB", "0.1 GB"]
