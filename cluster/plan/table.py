"""Prints a plan and its cost."""

from rich import box
from rich.table import Table

from cluster.driver.progress import console
from cluster.driver.units import format_bytes
from cluster.plan.cost import Cost
from cluster.plan.model_size import RankMemory
from cluster.plan.types import Disk, FleetPlan, Memory, Plan, StagePlan, Workers


def print_plan(plan: Plan, title: str) -> None:
    """Print workers, stages, one step, memory, then notes and warnings."""
    console.print(_workers_table(plan, title))
    console.print(_stages_table(plan))
    _print_validations(plan)
    if measured := plan.measurement:
        _say(
            f"measuring a stage on {measured.split.value}: {_count(measured.clips)} clips, at most "
            f"one trace each, {_count(measured.max_prompt_tokens)} prompt and "
            f"{_count(measured.max_response_tokens)} response tokens"
        )
    if step := plan.step:
        _say(
            f"a GRPO step: {_count(step.groups)} clips, {_count(step.rollouts)} rollouts, "
            f"{step.updates} update(s) of {_count(step.rollouts // step.updates)}; a row has at "
            f"most {_count(step.longest_row_tokens)} tokens"
        )
    if clip := plan.clip_tokens:
        _say(
            f"a clip: at most {clip.frames} frames of {_count(clip.max_pixels)} pixels, "
            f"{_count(clip.tokens)} video tokens"
        )
    if plan.memory:
        _print_memory(plan.memory)
    if plan.disk:
        _print_disk(plan.disk)
    if plan.fleet:
        _print_fleet(plan.fleet)
    for note in plan.notes:
        _say(f"note: {note}")
    for warning in plan.warnings:
        _say(f"warning: {warning}")


def _workers_table(plan: Plan, title: str) -> Table:
    table = Table(title=f"{title}: what a run would do (nothing was started)", box=box.SIMPLE)
    for name in ("", "number", "CPUs each", "GPUs each", "CPUs", "GPUs"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    both = (("rollout workers", plan.rollout), ("learner ranks", plan.learner))
    for name, workers in both:
        table.add_row(name, *_worker_cells(workers))
    cpus, gpus = plan.rollout.cpus + plan.learner.cpus, plan.rollout.gpus + plan.learner.gpus
    count = plan.rollout.count + plan.learner.count
    table.add_row("in all", str(count), "", "", f"{cpus:g}", f"{gpus:g}")
    return table


def _worker_cells(workers: Workers) -> list[str]:
    each = f"{workers.cpus_each:g}", f"{workers.gpus_each:g}"
    return [str(workers.count), *each, f"{workers.cpus:g}", f"{workers.gpus:g}"]


def _stages_table(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE, caption="tokens are upper bounds; ? is unknown")
    for name in ("stage", "clips", "epochs", "rollouts", "examples", "updates"):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    table.add_column("prompt tokens", justify="right")
    table.add_column("response tokens", justify="right")
    for stage in plan.stages:
        table.add_row(*_stage_cells(stage))
    return table


def _print_validations(plan: Plan) -> None:
    for stage in plan.stages:
        if stage.validations != 0:
            _say(
                f"{stage.name}: {_count(stage.validations)} validations while it trains, "
                f"{_count(stage.validated)} clips asked about in all"
            )


def _stage_cells(stage: StagePlan) -> list[str]:
    epochs = "?" if stage.epochs is None else f"{stage.epochs:.4g}"
    counts = (stage.rollouts, stage.examples, stage.updates)
    tokens = (stage.max_prompt_tokens, stage.max_response_tokens)
    cells = [_count(number) for number in (*counts, *tokens)]
    return [stage.name, _count(stage.clips), epochs, *cells]


def _print_memory(memory: Memory) -> None:
    rank, engine = memory.rank, memory.engine
    reference = f" + reference {format_bytes(rank.reference_bytes)}" if rank.reference_bytes else ""
    _say(
        f"model: {_count(memory.parameters)} parameters, {_count(memory.trained_parameters)} "
        "trained"
    )
    _say(
        f"a learner rank: {format_bytes(rank.total_bytes)} = "
        f"parameters {format_bytes(rank.parameter_bytes)} + "
        f"gradients {format_bytes(rank.gradient_bytes)} + "
        f"optimiser {format_bytes(rank.optimizer_bytes)}"
        f"{reference}{_offloaded(rank)}; activations and buffers not included"
    )
    room = engine.kv_cache_tokens
    cache = (
        "on its GPUs the cache is what gpu_memory_utilization leaves"
        if room is None or engine.kv_cache_bytes is None
        else f"the cache of {format_bytes(engine.kv_cache_bytes)} holds {_count(room)} tokens"
    )
    adapters = (
        f"LoRA adapters {format_bytes(engine.adapter_bytes)}, " if engine.adapter_bytes else ""
    )
    _say(
        f"an engine, per GPU (or in all, on CPU): weights {format_bytes(engine.weight_bytes)}, "
        f"{adapters}keys and "
        f"values {format_bytes(engine.kv_bytes_per_token)} per token, "
        f"{format_bytes(engine.kv_bytes_longest_sequence)} per longest sequence; {cache}"
    )


def _print_disk(disk: Disk) -> None:
    without = f" (without {', '.join(disk.unknown)})" if disk.unknown else ""
    _say(
        f"disk: a checkpoint {format_bytes(disk.checkpoint)}; models and checkpoints kept at once "
        f"{format_bytes(disk.run)}; archived traces at most {format_bytes(disk.archive)} before "
        f"compression{without}"
    )
    if disk.clip is None:
        return
    held = _count(disk.cache // disk.clip)
    _say(
        f"clip cache of a node: {format_bytes(disk.cache)} hold {held} of the largest clips "
        f"({format_bytes(disk.clip)} each)"
    )


def _print_fleet(fleet: FleetPlan) -> None:
    unused = f"; {fleet.gpus_unused} GPUs stay unused" if fleet.gpus_unused > 0 else ""
    engines, ranks = (", ".join(map(str, counts)) for counts in (fleet.engines, fleet.ranks))
    _say(
        f"on {fleet.nodes} nodes of {fleet.gpus_per_node} GPUs: engines on each {engines}; learner "
        f"ranks on each {ranks}{unused}"
    )
    shares = "; ".join(f"{share.name} {share.share:.0%}" for share in fleet.shares)
    _say(f"held all the time: {shares}; {format_bytes(fleet.node_memory_bytes)} of a node's memory")
    table = Table(
        box=box.SIMPLE,
        title="a GRPO step: bytes through the busiest node's network, one way",
        caption=f"at most; a network of {fleet.network_gbit:g} Gbit/s a node, GPUs that train at "
        f"{fleet.gpu_tflops:g} TFLOP/s; phases overlap",
    )
    for name in ("phase", "where"):
        table.add_column(name)
    for name in ("bytes", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for phase in fleet.phases:
        size = format_bytes(phase.num_bytes) if phase.num_bytes else "-"
        table.add_row(phase.name, phase.link, size, f"{phase.seconds:.1f}")
    console.print(table)
    _say(f"saturates first: {fleet.saturates}")


def _offloaded(rank: RankMemory) -> str:
    if not rank.offloaded_bytes:
        return ""
    return f", of which {format_bytes(rank.offloaded_bytes)} in the node's memory, not on the GPU"


def print_cost(cost: Cost) -> None:
    """Print expected seconds by kind of work, their sum, and the assumptions."""
    table = Table(title=f"expected, measured by {cost.measured_run}", box=box.SIMPLE)
    for name in ("stage", "work", "counted in"):
        table.add_column(name, no_wrap=True)
    for name in ("there", "seconds there", "here", "seconds here"):
        table.add_column(name, justify="right")
    for part in cost.parts:
        there = (_count(part.measured_count), f"{part.measured_seconds:,.0f}")
        here = (_count(part.count), _seconds(part.seconds))
        table.add_row(part.stage, part.work, part.unit, *there, *here)
    console.print(table)
    for stage in cost.stages:
        _say(f"{stage.name}: {_seconds(stage.seconds)} s")
    bound = "" if cost.is_whole else "at least "
    price = "" if cost.price is None else f", price {cost.price:,.2f}"
    _say(
        f"in all: {bound}{_seconds(cost.seconds)} s = {cost.seconds / 3600:.2f} h; "
        f"{cost.gpus:g} GPU(s), {cost.gpu_hours:.2f} GPU-hours{price}"
    )
    for assumption in cost.assumptions:
        _say(f"assumed: {assumption}")


def _seconds(number: float | None) -> str:
    return "?" if number is None else f"{number:,.0f}"


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _say(text: str) -> None:
    console.print(text, soft_wrap=True)
