"""Homes of clips: the node where a clip is made ready, seen by an engine and trained, each epoch.

    address of a clip -> hash -> a learner rank, whose node is the clip's home
                      -> nodes where it was ready since: engines and ranks there are near it, too

Each node has a cache of its own, so a clip costs a decode on every node that needs it. Homes are a
preference, never a must: an engine that is idle, or a rank with fewer tokens, may take any clip.
"""

from collections.abc import Mapping, Sequence

from cluster.actors.placement import Reservation, address_of
from cluster.config.recipe import RunConfig
from wire.types import stable_seed


class ClipHomes:
    """Homes of a run's clips, and the nodes that came to have them."""

    def __init__(self, worker_nodes: Mapping[str, str], rank_nodes: Sequence[str]) -> None:
        """Node of each rollout worker, by its name, and of each learner rank."""
        self._numbers: dict[str, int] = {}
        """Of the nodes, in the order in which they came."""
        self._rank_nodes = [self._number(node) for node in rank_nodes]
        self._worker_nodes = {name: self._number(node) for name, node in worker_nodes.items()}
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

    def place_worker(self, name: str, node: str) -> None:
        """Remember the node of a rollout worker that joins, or starts again elsewhere."""
        self._worker_nodes[name] = self._number(node)

    def workers_near(self, video: str) -> set[str]:
        """Rollout workers on nodes that have the clip, or will."""
        nodes = self._nodes(video)
        return {worker for worker, node in self._worker_nodes.items() if nodes >> node & 1}

    def note_worker(self, name: str, video: str) -> None:
        """Remember that a rollout worker has seen a clip: its node has it from now on."""
        self._note(self._worker_nodes[name], video)

    def note_rank(self, rank: int, video: str) -> None:
        """Remember that a rank trains on a clip: its node has it from now on."""
        self._note(self._rank_nodes[rank], video)

    def _number(self, node: str) -> int:
        return self._numbers.setdefault(node, len(self._numbers))

    def _note(self, node: int, video: str) -> None:
        nodes = self._nodes(video)
        if not nodes >> node & 1:
            self._nodes_of[video] = nodes | 1 << node

    def _nodes(self, video: str) -> int:
        home = self._rank_nodes[self.home_rank(video)]
        return self._nodes_of.get(video, 0) | 1 << home


def homes_of(config: RunConfig, seats: Reservation) -> ClipHomes | None:
    """Homes of the clips of a run on several nodes, or that may come to have more. None on one
    node, and in a deterministic run, where nothing may depend on which engine was the faster
    one."""
    workers = {f"rollout-{index}": seat.node for index, seat in enumerate(seats.workers)}
    ranks = [seat.node for seat in seats.ranks]
    grows = config.rollout.is_elastic and address_of(config) is not None
    if config.deterministic or (len({*workers.values(), *ranks}) == 1 and not grows):
        return None
    return ClipHomes(workers, ranks)
