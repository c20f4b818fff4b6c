from collections import Counter

from cluster.actors.clip_homes import ClipHomes, homes_of
from cluster.actors.placement import Reservation, Seat
from tests.cluster.config.test_node_layout import config_of

NODES = [f"node-{rank // 4}" for rank in range(16)]
WORKERS = {f"rollout-{number}": node for number, node in enumerate(NODES)}
CLIPS = [f"/clips/{number}.mp4" for number in range(4000)]


def test_a_clip_has_one_home_in_every_run_and_each_node_as_many_as_another():
    homes = ClipHomes(WORKERS, NODES)
    assert [homes.home_rank(clip) for clip in CLIPS] == [
        ClipHomes(WORKERS, NODES).home_rank(clip) for clip in CLIPS
    ]
    counts = Counter(homes.home_rank(clip) // 4 for clip in CLIPS)
    assert max(counts.values()) < 1.1 * min(counts.values())


def test_engines_and_ranks_of_a_clips_home_are_near_it():
    homes = ClipHomes(dict(list(WORKERS.items())[::2]), NODES)
    for clip in CLIPS[:20]:
        home = homes.home_rank(clip) // 4
        assert homes.ranks_near(clip) == list(range(4 * home, 4 * home + 4))
        assert homes.workers_near(clip) == {f"rollout-{4 * home}", f"rollout-{4 * home + 2}"}


def test_a_node_that_came_to_have_a_clip_is_near_it_from_then_on():
    homes = ClipHomes(WORKERS, NODES)
    clip = next(clip for clip in CLIPS if homes.home_rank(clip) < 4)
    homes.note_worker("rollout-9", clip)
    assert homes.ranks_near(clip) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert homes.workers_near(clip) == {f"rollout-{rank}" for rank in homes.ranks_near(clip)}
    homes.note_rank(15, clip)
    assert homes.ranks_near(clip) == [0, 1, 2, 3, *range(8, 16)]


def test_a_node_without_engines_is_a_home_too():
    homes = ClipHomes({"rollout-0": "a"}, ["a", "b"])
    clip = next(clip for clip in CLIPS if homes.home_rank(clip) == 1)
    assert (homes.ranks_near(clip), homes.workers_near(clip)) == ([1], set())


def test_a_worker_that_joins_on_a_new_node_or_moves_is_near_what_it_sees_there():
    homes = ClipHomes({"rollout-0": "a"}, ["a"])
    homes.place_worker("rollout-1", "new")
    assert homes.workers_near(CLIPS[0]) == {"rollout-0"}, "the rank's node is its home"
    homes.note_worker("rollout-1", CLIPS[0])
    assert homes.workers_near(CLIPS[0]) == {"rollout-0", "rollout-1"}
    homes.place_worker("rollout-0", "newer")
    assert homes.workers_near(CLIPS[0]) == {"rollout-1"}


def test_a_run_on_one_node_and_a_deterministic_one_have_no_homes():
    def seats(*nodes: str) -> Reservation:
        sat = tuple(Seat(None, n, node) for n, node in enumerate(nodes))  # type: ignore[arg-type]
        return Reservation(sat, sat)

    config = config_of(2, 2, 0, 0)
    assert homes_of(config, seats("a", "a")) is None
    assert homes_of(config, seats("a", "b")) is not None
    elastic = config_of(2, 2, 0, 0, max_workers=4)
    assert homes_of(elastic, seats("a", "a")) is None, "its Ray is of this machine alone"
    cluster = elastic.cluster.model_copy(update={"address": "a:6379"})
    assert homes_of(elastic.model_copy(update={"cluster": cluster}), seats("a", "a")) is not None
    exact = config.model_copy(update={"deterministic": True})
    assert homes_of(exact, seats("a", "b")) is None
