"""Homes of clips: the node where a clip is made ready, seen by an engine and trained, each epoch.

    address of a clip -> hash -> a learner rank, whose node is the clip's home
                      -> nodes where it was ready since: engines and ranks there are near it, too

Each node has a cache of its own, so a clip costs a decode on every node that needs it. Homes are a
preference, never a must: an engine that is idle, or a rank with fewer tokens, may take any clip.
"""

from collections.abc import Sequence

from cluster.actors.placement import Reservation
from cluster.config.recipe import RunConfig
from wire.types import stable_seed


class ClipHomes:
    """Homes of a run's clips, and the nodes that came to have them."""

    def __init__(self, worker_nodes: Sequence[str], rank_nodes: Sequence[str]) -> None:
        """Node of each rollout worker and of each learner rank."""
        names = list(dict.fromkeys([*rank_nodes, *worker_nodes]))
        self._worker_nodes = [names.index(node) for node in worker_nodes]
        self._rank_nodes = [names.index(node) for node in rank_nodes]
        self._nodes_of: dict[str, int] = {}
        """Nodes beside its home that have a clip, one bit each."""

    @staticmethod
    def _hash(video: str) -> int:
        return stable_seed("home of a clip", video)

    def home_rank(self, video: str) -> int:
        """The rank that makes a clip ready ahead; its node is the clip's home."""
        return self._hash(video) % len(self._rank_nodes)

    def ranks_near(self, video: str) -> list[int]:
        """Ranks on nodes that have the clip, or will."""
        nodes = self._nodes(video)
        return [rank for rank, node in enumerate(self._rank_nodes) if nodes >> node & 1]

    def workers_near(self, video: str) -> list[int]:
        """Rollout workers on nodes that have the clip, or will."""
        nodes = self._nodes(video)
        return [worker for worker, node in enumerate(self._worker_nodes) if nodes >> node & 1]

    def note_worker(self, worker: int, video: str) -> None:
        """Remember that a rollout worker has seen a clip: its node has it from now on."""
        self._note(self._worker_nodes[worker], video)

    def note_rank(self, rank: int, video: str) -> None:
        """Remember that a rank trains on a clip: its node has it from now on."""
        self._note(self._rank_nodes[rank], video)

    def _note(self, node: int, video: str) -> None:
        nodes = self._nodes(video)
        if not nodes >> node & 1:
            self._nodes_of[video] = nodes | 1 << node

    def _nodes(self, video: str) -> int:
        home = self._rank_nodes[self.home_rank(video)]
        return self._nodes_of.get(video, 0) | 1 << home


def homes_of(config: RunConfig, seats: Reservation) -> ClipHomes | None:
    """Homes of the clips of a run on several nodes. None on one node, and in a deterministic run,
    where nothing may depend on which engine was the faster one."""
    workers, ranks = ([seat.node for seat in part] for part in (seats.workers, seats.ranks))
    if config.deterministic or len({*workers, *ranks}) == 1:
        return None
    return ClipHomes(workers, ranks)
