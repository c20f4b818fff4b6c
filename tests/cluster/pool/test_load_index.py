from hypothesis import given
from hypothesis import strategies as st

from cluster.pool.load_index import LoadIndex

NAMES = [f"r{index}" for index in range(6)]
STEPS = st.lists(st.tuples(st.sampled_from(NAMES), st.none() | st.integers(0, 4)), max_size=300)


@given(STEPS)
def test_the_least_busy_worker_is_the_one_that_a_look_at_all_finds(
    steps: list[tuple[str, int | None]],
):
    index, loads = LoadIndex(), dict[str, int]()
    for name, load in steps:
        if load is None:
            index.remove(name)
            loads.pop(name, None)
        else:
            index.put(name, load)
            loads[name] = load
        assert index.loads == loads
        assert index.least == min(loads, key=lambda name: (loads[name], name), default=None)


def test_loads_that_are_over_take_no_memory_for_long():
    index = LoadIndex()
    for number in range(10_000):
        index.put("r0", number % 8)
        index.put("r1", 0)
    assert len(index._heap) < 100
