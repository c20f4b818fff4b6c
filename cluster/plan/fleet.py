"""Plans a run on a given cluster: nodes, memory shares, and the bytes that a GRPO step sends.

    recipe + model sizes + nodes x GPUs -> placement -> traffic by phase -> what saturates first

Upper bounds: clips of full size, traces of full length. Seconds are bytes over the stated
bandwidth of a node's network, and the learner's arithmetic over the stated speed of a GPU; no step
was measured.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.config.controls import grpo_of
from cluster.config.node_layout import PAIR, ROLES, kinds_of, lay_out
from cluster.config.recipe import RunConfig
from cluster.plan.adapter_size import trained_adapter
from cluster.plan.model_size import BYTES, EngineMemory, ModelShape, RankMemory
from cluster.plan.types import FleetPlan, Phase, Share
from wire.errors import ConfigError

_ID_BYTES, _LOGPROB_BYTES, _TEXT_BYTES = 4, 4, 4
_FEWER_GATHERS = (
    "raise learner.max_tokens_per_batch (fewer micro-batches), or lower learner.zero_stage where "
    "memory allows it"
)
_CPUS = 1024.0  # of a node: GPUs decide here


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A cluster that a run is planned for, and what its parts are taken to do.

    Example:
        Fleet(num_nodes=4, gpus_per_node=8)
    """

    num_nodes: int
    gpus_per_node: int
    network_gbit: float = 100.0
    """Bandwidth of a node's network, each way, in Gbit/s."""
    gpu_gb: float = 80.0
    """Memory of a GPU, GB."""
    gpu_tflops: float = 400.0
    """Arithmetic that a GPU reaches in training, TFLOP/s: 40% of an H100's in bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where engines and ranks stand: how many on each node."""

    engines: tuple[int, ...]
    ranks: tuple[int, ...]

    @property
    def other_nodes_with_engines(self) -> int:
        """Nodes with engines, without that of rank 0."""
        home = next(node for node, count in enumerate(self.ranks) if count)
        return sum(bool(count) for node, count in enumerate(self.engines) if node != home)

    @property
    def trains_on_several(self) -> bool:
        """Whether the learner's ranks are on more than one node."""
        return sum(bool(count) for count in self.ranks) > 1


def place(config: RunConfig, fleet: Fleet) -> Placement:
    """Engines and ranks of each node, as a run places them. Raises ConfigError if they do not
    fit."""
    node = {"CPU": _CPUS, "GPU": float(fleet.gpus_per_node), **dict.fromkeys(ROLES, _CPUS)}
    nodes = [node] * fleet.num_nodes
    kinds = kinds_of(config)
    if not any(kind.bundle.get("GPU") for kind in kinds):
        raise ConfigError(
            "--nodes plans nodes with GPUs, and this recipe's workers ask for none "
            "(rollout.num_gpus, learner.num_gpus); leave --nodes out, or set them"
        )
    layout = lay_out(kinds, nodes)
    if layout is None:
        wanted = sum(kind.count * kind.bundle.get("GPU", 0.0) for kind in kinds)
        raise ConfigError(
            f"the recipe's workers need {wanted:g} GPUs, and {fleet.num_nodes} nodes of "
            f"{fleet.gpus_per_node} do not hold them; lower rollout.num_workers or "
            "learner.num_ranks, or plan for more nodes (--nodes)"
        )
    counts = [tuple(row.count(node) for node in range(fleet.num_nodes)) for row in layout]
    engines, ranks = (counts[0], counts[0]) if kinds[0].name == PAIR else (counts[0], counts[1])
    return Placement(engines=engines, ranks=ranks)


def plan_fleet(
    config: RunConfig,
    shape: ModelShape,
    fleet: Fleet,
    clip_tokens: int,
    rank: RankMemory,
    engine: EngineMemory,
) -> FleetPlan:
    """Plan a run on a cluster. ``clip_tokens``: video tokens of the largest clip.

    Raises ConfigError if the workers do not fit.
    """
    placement = place(config, fleet)
    phases = tuple(_phases(config, shape, fleet, placement, clip_tokens))
    shares = tuple(_shares(config, fleet, rank, engine))
    return FleetPlan(
        nodes=fleet.num_nodes,
        gpus_per_node=fleet.gpus_per_node,
        gpus_unused=fleet.num_nodes * fleet.gpus_per_node - _gpus(config),
        network_gbit=fleet.network_gbit,
        gpu_tflops=fleet.gpu_tflops,
        engines=placement.engines,
        ranks=placement.ranks,
        shares=shares,
        phases=phases,
        node_memory_bytes=_node_memory(config, placement, rank),
        saturates=_saturates(phases, shares),
    )


def _gpus(config: RunConfig) -> int:
    kinds = kinds_of(config)
    return math.ceil(sum(kind.count * kind.bundle.get("GPU", 0.0) for kind in kinds))


def _phases(
    config: RunConfig, shape: ModelShape, fleet: Fleet, placement: Placement, clip_tokens: int
) -> Iterator[Phase]:
    """What a GRPO step sends, phase by phase: bytes through the busiest node's network, one way."""
    grpo, rollout, learner = grpo_of(config), config.rollout, config.learner
    ranks = learner.num_ranks
    traces = grpo.groups_per_step * rollout.group_size
    prompts, responses = (
        grpo.groups_per_step * clip_tokens,
        traces * rollout.max_response_length,
    )

    def phase(name: str, link: str, num_bytes: float, remedy: str = "") -> Phase:
        return Phase(
            name=name,
            link=link,
            num_bytes=round(num_bytes),
            seconds=8 * num_bytes / (fleet.network_gbit * 1e9),
            remedy=remedy,
        )

    per_token = _ID_BYTES + _LOGPROB_BYTES
    yield phase(
        "traces to the driver",
        "into the driver's node",
        _ID_BYTES * prompts + (per_token + _TEXT_BYTES) * responses,
    )
    yield phase(
        "rows to the learner",
        "out of the driver's node",
        _ID_BYTES * prompts + per_token * responses,
    )
    micro_batches = math.ceil(
        (prompts + responses) / grpo.updates_per_step / ranks / learner.max_tokens_per_batch
    )
    between = (ranks - 1) / ranks if placement.trains_on_several else 0.0
    yield phase(
        f"ZeRO-{learner.zero_stage} in {grpo.updates_per_step} updates of {micro_batches} "
        "micro-batches a rank",
        "through each node of the learner",
        between * _learner_bytes(config, shape, micro_batches),
        _FEWER_GATHERS if learner.zero_stage >= 2 else "",
    )
    weights = _sent_weights(config, shape)
    if learner.zero_stage == 3:
        yield phase("weights gathered", "through each node of the learner", between * weights)
    link, times, remedy = _way_of_weights(config, placement)
    yield phase(f"weights to the engines ({config.transfer.kind})", link, times * weights, remedy)
    flops = (8 if learner.gradient_checkpointing else 6) * shape.num_parameters
    seconds = flops * (prompts + responses) / (ranks * fleet.gpu_tflops * 1e12)
    if learner.num_gpus:
        yield Phase(
            name="updates' arithmetic", link="each rank's GPU", num_bytes=0, seconds=seconds
        )


def _way_of_weights(config: RunConfig, placement: Placement) -> tuple[str, int, str]:
    """The busiest link of the weights, how often they go through it, and what helps."""
    others = placement.other_nodes_with_engines
    if config.transfer.kind == "ipc":
        return "inside each GPU", 0, ""
    if config.transfer.kind == "nccl":
        return "through each node", min(1, others), ""
    remedy = "transfer.kind = 'nccl' sends them through each node once" if others > 1 else ""
    return "out of rank 0's node", others, remedy


def _learner_bytes(config: RunConfig, shape: ModelShape, micro_batches: int) -> float:
    """Bytes that a step's updates bring through a node, before the share that stays on it."""
    updates = grpo_of(config).updates_per_step * _update_bytes(config, shape, micro_batches)
    return updates + _old_logprob_bytes(config, shape, micro_batches)


def _update_bytes(config: RunConfig, shape: ModelShape, micro_batches: int) -> float:
    """Bytes that an update's collectives bring through a node, before the share that stays on it.

    ZeRO-3 gathers the weights forward and backward and reduces the gradients, all of it for each
    micro-batch; stage 2 reduces for each, and gathers once; below, all of it is once an update.
    """
    learner = config.learner
    size = BYTES[learner.dtype]
    trained = trained_adapter(shape, learner) or shape.num_trained(learner)
    weights, gradients = size * shape.num_parameters, size * trained
    if learner.zero_stage == 3:
        return micro_batches * (2 * weights + gradients)
    if learner.zero_stage == 2:
        return micro_batches * gradients + size * trained
    return 2 * gradients


def _old_logprob_bytes(config: RunConfig, shape: ModelShape, micro_batches: int) -> float:
    """Bytes of the pass for old logprobs, where a step has several updates (ZeRO-3 alone)."""
    grpo, learner = grpo_of(config), config.learner
    asks = grpo.loss.old_logprobs == "trainer" and grpo.updates_per_step > 1
    if learner.zero_stage < 3 or not asks:
        return 0.0
    passes = grpo.updates_per_step * micro_batches
    return float(passes * BYTES[learner.dtype] * shape.num_parameters)


def _sent_weights(config: RunConfig, shape: ModelShape) -> int:
    """Bytes that the engines get after a step: the model, or the adapter alone."""
    learner = config.learner
    adapter = trained_adapter(shape, learner) if learner.hands_off_adapters else 0
    return BYTES[learner.dtype] * (adapter or shape.num_parameters)


def _shares(
    config: RunConfig, fleet: Fleet, rank: RankMemory, engine: EngineMemory
) -> Iterator[Share]:
    """Shares of a GPU's memory that rank and engine hold all the time."""
    gpu = fleet.gpu_gb * 1e9
    used = config.rollout.gpu_memory_utilization
    if config.learner.num_gpus:
        room = gpu * (1 - used) if config.colocated else gpu
        yield Share(name="a learner rank's GPU memory", share=rank.device_bytes / room)
    if config.rollout.num_gpus:
        held = engine.weight_bytes + engine.adapter_bytes + engine.kv_bytes_longest_sequence
        yield Share(name="an engine's GPU memory, with one sequence", share=held / (gpu * used))


def _node_memory(config: RunConfig, placement: Placement, rank: RankMemory) -> int:
    """Memory of the fullest node: Ray's object store, and what ranks have offloaded."""
    store = int(config.cluster.object_store_mb * 2**20)
    return store + max(placement.ranks) * rank.offloaded_bytes


def _saturates(phases: Sequence[Phase], shares: Sequence[Share]) -> str:
    """What saturates first: memory that does not suffice, else the phase of most seconds."""
    if over := [share for share in shares if share.share > 1]:
        worst = max(over, key=lambda share: share.share)
        return f"{worst.name}: {worst.share:.0%} of what there is"
    longest = max(phases, key=lambda phase: phase.seconds)
    remedy = f"; {longest.remedy}" if longest.remedy else ""
    return f"{longest.name}, {longest.link}: {longest.seconds:.1f} s a step{remedy}"
