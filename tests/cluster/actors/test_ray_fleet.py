"""The pool on a real Ray whose nodes come and go; rules and calls: test_rollout_pool.py."""

from typing import Any

import pytest

from tests.cluster.actors.in_own_process import run_on_fake_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(590)]


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    return run_on_fake_nodes("pool_on_fake_nodes")


@pytest.mark.parametrize(
    ("what", "cause"),
    [("killed", "actor_died"), ("_alive", "engine_died"), ("_hangs", "probe_failed")],
)
def test_a_worker_that_fails_is_back_with_the_newest_weights_and_no_request_is_lost(
    seen: dict[str, Any], what: str, cause: str
):
    after = seen[what]
    assert after["versions"] == [1], "of all that were asked meanwhile"
    assert after["states"] == [
        f"dead: {cause}",
        "restarting: restart",
        "stale: started",
        "healthy: weights_proven",
    ]
    assert after["worker"]["loaded"] == [0, 1, 2, 3, 4], "the buckets of the host copy"
    assert after["worker"]["told"][1:] == ["narration"]


def test_workers_join_where_there_is_room_and_on_nodes_that_join(seen: dict[str, Any]):
    assert set(seen["node joins"]) == set(seen["room"]) == {"joined_s"}


def test_the_requests_of_a_node_that_dies_are_answered_by_others(seen: dict[str, Any]):
    assert seen["node dies"]["versions"] == [1]
    assert seen["node dies"]["causes"][:2] == ["node_died"] * 2
    assert seen["another node joins"]["joined_s"] < 60


def test_scaling_down_loses_no_request_and_gives_the_places_back(seen: dict[str, Any]):
    down = seen["scaled down"]
    assert down["versions"] == [1]
    assert down["view"] == ["healthy"]
    assert down["left"] >= 4
    assert down["scaled"][-2:] == [6, 1]
