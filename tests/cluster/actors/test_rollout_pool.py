from cluster.actors.rollout_pool import choose_worker

NAMES = ["r0", "r1", "r2"]
BUSY = {"r0": 3, "r1": 1, "r2": 2}


def test_the_least_busy_worker_in_service_answers():
    assert choose_worker(None, NAMES, {"r0", "r1", "r2"}, BUSY) == "r1"
    assert choose_worker(None, NAMES, {"r0", "r2"}, BUSY) == "r2"


def test_in_a_deterministic_run_workers_take_turns_however_busy():
    able = set(NAMES)
    assert [choose_worker(n, NAMES, able, BUSY) for n in range(4)] == ["r0", "r1", "r2", "r0"]
    assert choose_worker(1, NAMES, {"r0", "r2"}, BUSY) == "r2", "another one for it"
