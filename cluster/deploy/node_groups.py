"""Groups of like nodes for a run: rollout nodes, which may come and go, and fixed learner nodes.

    recipe -> workers and ranks of a node, nodes of a group -> RayJob (kuberay.py)

A node offers the Ray resource of its role (``cluster.role_resources``), one for each worker or rank
that it is for: Ray then neither puts a rank on a node that may be taken away, nor more workers on a
node than it was made for.
"""

import math
from dataclasses import dataclass

from cluster.config.recipe import RunConfig
from cluster.plan.run_plan import plan_of
from cluster.plan.types import Memory
from learner.config import LearnerConfig
from rollout.config import RolloutConfig
from wire.errors import ConfigError

_GPUS_OF_A_NODE = 8
_PROCESS_GB = 4.0  # interpreter, libraries, decoded clips of one worker or rank
_UNKNOWN_GB = 32.0
_BYTES_READ = 2  # of a parameter in the model's files: bfloat16
_RAYS_SHARE = 0.3  # of a node's memory, which Ray takes for its object store


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """Group of like nodes: how many of them, and the resources of each.

    Example:
        NodeGroup(name="rollout", role="rollout_worker", per_node=1, minimum=1, start=4, maximum=20,
                  cpus=4, gpus=1, memory_gb=64)
    """

    name: str
    role: str
    """Ray resource that its nodes offer, ``per_node`` of it each."""
    per_node: int
    """Workers or ranks of a node."""
    minimum: int
    start: int
    maximum: int
    cpus: int
    gpus: int
    memory_gb: int

    @property
    def is_elastic(self) -> bool:
        """Whether its nodes may come and go."""
        return self.minimum < self.maximum


@dataclass(frozen=True, slots=True, kw_only=True)
class PerNode:
    """Workers and ranks of a node, and memory of one, where the user decided them."""

    workers: int = 1
    ranks: int | None = None
    worker_gb: float | None = None
    rank_gb: float | None = None


def node_groups(config: RunConfig, per_node: PerNode) -> list[NodeGroup]:
    """The groups of nodes of a run: rollout and learner nodes, or one of pairs where each engine
    shares a GPU with a rank. Raises ConfigError if the ranks do not divide into nodes."""
    rollout, learner = config.rollout, config.learner
    worker_gb, rank_gb = _memory_gb(config)
    worker_gb, rank_gb = per_node.worker_gb or worker_gb, per_node.rank_gb or rank_gb
    pair = config.colocated
    gpus = 1.0 if pair else learner.num_gpus
    ranks = per_node.ranks or _ranks_of_a_node(learner.num_ranks, gpus)
    if learner.num_ranks % ranks:
        raise ConfigError(
            f"--ranks-per-node {ranks} does not divide learner.num_ranks={learner.num_ranks}; "
            "give a divisor, so that all learner nodes are alike"
        )
    fixed = learner.num_ranks // ranks
    learners = NodeGroup(
        name="pairs" if pair else "learner",
        role="learner_rank",
        per_node=ranks,
        minimum=fixed,
        start=fixed,
        maximum=fixed,
        cpus=_cpus(ranks, _cpus_each(learner) + (rollout.num_cpus if pair else 0.0)),
        gpus=math.ceil(ranks * gpus),
        memory_gb=_node_gb(ranks, rank_gb + (worker_gb if pair else 0.0)),
    )
    return [learners] if pair else [_rollout_nodes(config, per_node.workers, worker_gb), learners]


def _rollout_nodes(config: RunConfig, per_node: int, worker_gb: float) -> NodeGroup:
    rollout = config.rollout

    def nodes(workers: int) -> int:
        return math.ceil(workers / per_node)

    least = (rollout.min_workers or 1) if rollout.is_elastic else rollout.num_workers
    return NodeGroup(
        name="rollout",
        role="rollout_worker",
        per_node=per_node,
        minimum=nodes(least),
        start=nodes(rollout.num_workers),
        maximum=nodes(rollout.max_workers or rollout.num_workers),
        cpus=_cpus(per_node, _cpus_each(rollout)),
        gpus=math.ceil(per_node * rollout.num_gpus),
        memory_gb=_node_gb(per_node, worker_gb),
    )


def _ranks_of_a_node(num_ranks: int, gpus: float) -> int:
    """The most ranks that fit a node of eight GPUs, so that all nodes have as many."""
    return next(
        count
        for count in range(num_ranks, 0, -1)
        if num_ranks % count == 0 and (count * gpus <= _GPUS_OF_A_NODE or count == 1)
    )


def _cpus_each(part: RolloutConfig | LearnerConfig) -> float:
    """CPUs of a worker or rank; one that computes on them has as many as it has threads."""
    return part.num_cpus if part.num_gpus else max(part.num_cpus, part.num_threads)


def _cpus(count: int, each: float) -> int:
    return max(1, math.ceil(count * each))


def _node_gb(count: int, each: float) -> int:
    return math.ceil(count * each / (1 - _RAYS_SHARE))


def _memory_gb(config: RunConfig) -> tuple[float, float]:
    """Memory of a node that one engine and one rank take, in GB, from the model's sizes."""
    memory = plan_of(config, (), None).memory
    if memory is None:
        return _UNKNOWN_GB, _UNKNOWN_GB
    return (
        _PROCESS_GB + _engine_bytes(config, memory) / 1e9,
        _PROCESS_GB + _rank_bytes(config, memory) / 1e9,
    )


def _engine_bytes(config: RunConfig, memory: Memory) -> float:
    """On GPUs, the weights while they are read and two buckets of the next ones."""
    engine = memory.engine
    weights = engine.weight_bytes * config.rollout.tensor_parallel_size
    if config.rollout.num_gpus:
        return weights + 2 * config.transfer.bucket_bytes
    return weights + (engine.kv_cache_bytes or 0) + engine.adapter_bytes


def _rank_bytes(config: RunConfig, memory: Memory) -> float:
    """On GPUs, the whole weights while they are read and what is kept off the GPU."""
    rank, learner = memory.rank, config.learner
    if not learner.num_gpus:
        return rank.total_bytes
    moments = rank.optimizer_bytes if learner.offload_while_generating else 0
    return _BYTES_READ * memory.parameters + rank.offloaded_bytes + moments
