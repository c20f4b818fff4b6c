import itertools
import signal
import statistics
from pathlib import Path

from cluster.metrics.events import EventLog
from tests.soak.kills import KILLED, Killer, drawn_kills, num_serving, recovery_times


def test_kills_of_a_seed_are_the_same_and_come_at_exponential_gaps():
    kills = list(itertools.islice(drawn_kills(1, 90.0), 4000))
    assert kills == list(itertools.islice(drawn_kills(1, 90.0), 4000))
    assert kills != list(itertools.islice(drawn_kills(2, 90.0), 4000))
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(kills)]
    assert 85 < statistics.fmean(gaps) < 95
    assert 85 < statistics.pstdev(gaps) < 95  # of an exponential, as its mean
    assert {kill.role for kill in kills} == set(KILLED)
    assert {kill.role for kill in kills if kill.number is signal.SIGSTOP} == {"engine"}


def test_without_a_spare_no_worker_is_killed(tmp_path: Path):
    events, said = EventLog(tmp_path, 0), list[str]()
    events.note("worker_state", "rollout-0", state="healthy")
    events.note("worker_state", "rollout-1", state="healthy")
    events.note("worker_state", "rollout-1", state="dead")
    assert num_serving(tmp_path) == 1
    kills = (kill for kill in drawn_kills(3, 1e-6) if kill.role == "engine")
    killer = Killer(tmp_path, itertools.chain(itertools.islice(kills, 1), kills), said.append)
    first = killer._next
    killer._carry_out(first, 2**22)
    assert (killer.num_hit, killer.num_spared) == (0, 1)
    assert "no spare worker serves" in said[0]


def test_recovery_is_from_the_first_loss_to_service(tmp_path: Path):
    lines = [
        (10.0, "worker_state", "rollout-0", '"state": "suspect"'),
        (12.0, "worker_state", "rollout-0", '"state": "dead"'),
        (20.0, "worker_state", "rollout-1", '"state": "dead"'),
        (40.0, "worker_state", "rollout-0", '"state": "healthy"'),
        (50.0, "learner_healed", "learner", '"seconds": 7.5'),
    ]
    rows = [
        f'{{"time": {t}, "attempt": 0, "kind": "{kind}", "subject": "{who}", {rest}}}\n'
        for t, kind, who, rest in lines
    ]
    (tmp_path / "events.jsonl").write_text("".join(rows))
    assert recovery_times(tmp_path) == [30.0, 7.5]
