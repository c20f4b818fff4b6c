from cluster.actors.rollout_pool import choose_worker

NAMES = ["r0", "r1", "r2"]
BUSY = {"r0": 3, "r1": 1, "r2": 2}


def test_the_least_busy_worker_in_service_answers():
    assert choose_worker(None, NAMES, {"r0", "r1", "r2"}, BUSY) == "r1"
    assert choose_worker(None, NAMES, {"r0", "r2"}, BUSY) == "r2"


def test_a_worker_near_the_clip_is_preferred_but_for_one_that_is_clearly_less_busy():
    def chosen(near: set[str], **busy: int) -> str:
        return choose_worker(None, NAMES, {"r0", "r1", "r2"}, busy, near)

    assert chosen({"r2"}, r0=1, r1=1, r2=1) == "r2"
    assert chosen({"r2"}, r0=0, r1=1, r2=1) == "r2", "one request more"
    assert chosen({"r2"}, r0=0, r1=1, r2=2) == "r0", "two more: an idle one is not left waiting"
    assert chosen({"r1", "r2"}, r0=3, r1=4, r2=3) == "r2", "of the near ones the less busy"
    assert chosen(set(), r0=3, r1=2, r2=3) == "r1"
    assert choose_worker(None, NAMES, {"r0"}, BUSY, {"r1"}) == "r0", "r1 is out of service"


def test_in_a_deterministic_run_workers_take_turns_however_busy():
    able = set(NAMES)
    assert [choose_worker(n, NAMES, able, BUSY) for n in range(4)] == ["r0", "r1", "r2", "r0"]
    assert choose_worker(1, NAMES, {"r0", "r2"}, BUSY) == "r2", "another one for it"
