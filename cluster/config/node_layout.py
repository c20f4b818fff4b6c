"""Layout of workers over nodes: rollout workers and learner ranks in proportion on each node.

    recipe -> Kinds (what each asks for, how many) + free resources of nodes -> node of each

As few nodes as hold all, and each of them with engines and ranks in the same proportion: a clip
that an engine has decoded is then on the disk of a node that also trains, and weights have the
short way. Engine i and rank i that share a GPU are one kind, the pair. Plain arithmetic: no Ray.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.config.recipe import RunConfig

Bundle = dict[str, float]
"""Resources by name: CPU, GPU, and those of roles (``cluster.role_resources``)."""

PAIR = "pair"
"""Kind of an engine and a rank that share a GPU."""

ROLES = ("rollout_worker", "learner_rank")
"""Ray resources of the roles; a pair has that of its rank."""

_ROUNDING = 1e-6  # ten times 0.1 CPUs fit one CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Workers of one kind: what each of them reserves, and how many there are.

    Example:
        Kind(name="pair", bundle={"CPU": 1.0, "GPU": 1.0}, count=8)
    """

    name: str
    bundle: Bundle
    count: int


def kinds_of(
    config: RunConfig, *, engines: bool = True, num_workers: int | None = None
) -> list[Kind]:
    """Kinds of workers of a run: pairs where an engine and a rank share a GPU, else rollout workers
    and learner ranks. ``engines``: False for learner ranks alone; ``num_workers``: how many rollout
    workers, ``rollout.num_workers`` by default."""
    rollout, learner = config.rollout, config.learner
    roles = config.cluster.role_resources
    ranks = _kind("learner rank", learner.num_cpus, learner.num_gpus, learner.num_ranks, roles)
    if not engines:
        return [ranks]
    if config.colocated:
        bundle = {**ranks.bundle, "CPU": rollout.num_cpus + learner.num_cpus, "GPU": 1.0}
        return [Kind(name=PAIR, bundle=bundle, count=learner.num_ranks)]
    return [
        worker_kind(config, rollout.num_workers if num_workers is None else num_workers),
        ranks,
    ]


def worker_kind(config: RunConfig, count: int = 1) -> Kind:
    """Rollout workers that share no GPU with a rank."""
    rollout, roles = config.rollout, config.cluster.role_resources
    return _kind("rollout worker", rollout.num_cpus, rollout.num_gpus, count, roles)


def start_sizes(config: RunConfig) -> range:
    """Numbers of rollout workers that a run may start with, the best first."""
    rollout = config.rollout
    least = (rollout.min_workers or 1) if rollout.is_elastic else rollout.num_workers
    return range(rollout.num_workers, least - 1, -1)


def lay_out_run(
    config: RunConfig, nodes: Sequence[Mapping[str, float]], *, engines: bool = True
) -> list[list[int]] | None:
    """Index of the node of each worker of a run (:func:`kinds_of`), with as many rollout workers as
    fit if their number may change; None if the run does not fit."""
    for num_workers in start_sizes(config) if engines else [0]:
        kinds = kinds_of(config, engines=engines, num_workers=num_workers)
        if (layout := lay_out(kinds, nodes)) is not None:
            return layout
    return None


def room_for(kind: Kind, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many workers of a kind the nodes could hold beside what they hold."""
    return sum(int(_num_fitting(kind.bundle, node) + _ROUNDING) for node in nodes)


def _kind(name: str, cpus: float, gpus: float, count: int, role_resources: bool) -> Kind:
    bundle = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
    if role_resources:
        bundle[name.replace(" ", "_")] = 1.0
    return Kind(name=name, bundle=bundle, count=count)


def lay_out(kinds: Sequence[Kind], nodes: Sequence[Mapping[str, float]]) -> list[list[int]] | None:
    """Index of the node of each worker of each kind; None if they do not fit.

    The largest nodes are taken first, and as few as hold all. Workers of a kind are numbered node
    by node, so that neighbouring ranks share one.
    """
    largest = sorted(range(len(nodes)), key=lambda n: _size(nodes[n]), reverse=True)
    for used in range(1, len(nodes) + 1):
        if (layout := _in_proportion(kinds, nodes, sorted(largest[:used]))) is not None:
            return layout
    return _first_fit(kinds, nodes)


def _in_proportion(
    kinds: Sequence[Kind], nodes: Sequence[Mapping[str, float]], used: Sequence[int]
) -> list[list[int]] | None:
    """Each worker to the node that has least of its kind for what it could hold."""
    left = {node: dict(nodes[node]) for node in used}
    layout: list[list[int]] = [[] for _ in kinds]
    for index in _largest_first(kinds):
        bundle, counts = kinds[index].bundle, dict.fromkeys(used, 0)
        could = {node: _num_fitting(bundle, nodes[node]) for node in used}
        for _ in range(kinds[index].count):
            open_ = [node for node in used if _fits(bundle, left[node])]
            if not open_:
                return None
            node = min(open_, key=lambda n: ((counts[n] + 1) / could[n], _taken(left[n])))
            counts[node] += 1
            _take(bundle, left[node])
        layout[index] = [node for node in used for _ in range(counts[node])]
    return layout


def _first_fit(
    kinds: Sequence[Kind], nodes: Sequence[Mapping[str, float]]
) -> list[list[int]] | None:
    """Each worker, largest first, to the first node with room: fills odd gaps."""
    left = [dict(node) for node in nodes]
    layout: list[list[int]] = [[] for _ in kinds]
    for index in _largest_first(kinds):
        bundle = kinds[index].bundle
        for _ in range(kinds[index].count):
            node = next((n for n, room in enumerate(left) if _fits(bundle, room)), None)
            if node is None:
                return None
            layout[index].append(node)
            _take(bundle, left[node])
    return layout


def _largest_first(kinds: Sequence[Kind]) -> list[int]:
    return sorted(range(len(kinds)), key=lambda k: _size(kinds[k].bundle), reverse=True)


def _size(resources: Mapping[str, float]) -> tuple[float, float]:
    return resources.get("GPU", 0.0), resources.get("CPU", 0.0)


def _taken(left: Mapping[str, float]) -> list[float]:
    return [-amount for amount in _size(left)]


def _fits(bundle: Bundle, room: Mapping[str, float]) -> bool:
    return all(room.get(name, 0.0) >= amount - _ROUNDING for name, amount in bundle.items())


def _num_fitting(bundle: Bundle, room: Mapping[str, float]) -> float:
    """How many bundles an empty node would hold; at least a little, to divide by."""
    shares = [room.get(name, 0.0) / amount for name, amount in bundle.items() if amount]
    return max(min(shares, default=1.0), _ROUNDING)


def _take(bundle: Bundle, room: dict[str, float]) -> None:
    for name, amount in bundle.items():
        room[name] = room.get(name, 0.0) - amount


def describe(
    kinds: Sequence[Kind], layout: Sequence[Sequence[int]], nodes: Sequence[Mapping[str, float]]
) -> str:
    """Describe a layout: what it reserves of the nodes, and what each node gets.

    Example:
        "16 workers reserve 16 CPUs and 16 GPUs of 256 CPUs and 32 GPUs: 2 of 4 nodes with 4
        rollout workers and 4 learner ranks each"
    """

    def count(of: Sequence[Mapping[str, float]]) -> str:
        cpus, gpus = (sum(part.get(kind, 0) for part in of) for kind in ("CPU", "GPU"))
        return f"{cpus:g} CPUs and {gpus:g} GPUs"

    bundles = [kind.bundle for kind, of_kind in zip(kinds, layout, strict=True) for _ in of_kind]
    who = "pairs of engine and rank" if kinds[0].name == PAIR else "workers"
    what = f"{len(bundles)} {who} reserve {count(bundles)} of {count(nodes)}"
    if len(nodes) == 1:
        return what
    used = sorted({node for of_kind in layout for node in of_kind})
    parts = [tuple(of_kind.count(node) for of_kind in layout) for node in used]
    shown = [
        f"{parts.count(part)} of {len(nodes)} nodes with {_named(kinds, part)} each"
        for part in dict.fromkeys(parts)
    ]
    return f"{what}: {'; '.join(shown)}"


def _named(kinds: Sequence[Kind], counts: Sequence[int]) -> str:
    """The workers of one node.

    Example:
        "4 rollout workers and 4 learner ranks"
    """
    return " and ".join(
        f"{count} {kind.name}{'' if count == 1 else 's'}"
        for kind, count in zip(kinds, counts, strict=True)
    )
