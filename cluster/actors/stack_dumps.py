"""Stack dumps of a run: the driver's threads and asyncio tasks, and every actor with the processes
below it (engines, decoders), on all nodes.

    driver, actors of the job -> a task on each node -> take_stacks of each process -> one text
"""

import asyncio
import itertools
import os
import sys
import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from wire.stack_dump import take_stacks

_NODE_S = 60.0  # of one node; a task there needs a process of its own
_MOST_FRAMES = 60


async def stacks_of_run() -> str:
    """Stacks of all processes of this run, as text, this one first; one that hangs is not waited
    for."""
    parts = [driver_stacks()]
    if ray.is_initialized():
        asked = _actors_by_node()
        texts = [_of_node(node, processes) for node, processes in asked.items()]
        parts += await asyncio.gather(*texts)
    return "\n".join(parts)


def driver_stacks() -> str:
    """Stacks of this process: of its asyncio tasks, and of its threads."""
    lines = [f"== driver, process {os.getpid()} =="]
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        lines += [f"-- task {task.get_name()}", *_frames_of(task)]
    for thread, frame in sys._current_frames().items():
        lines += [f"-- thread {thread}", *_lines(traceback.extract_stack(frame)[-_MOST_FRAMES:])]
    return "\n".join([*lines, ""])


def _frames_of(task: "asyncio.Task[Any]") -> Iterator[str]:
    """Where a task waits: each coroutine that waits for the next, innermost last."""
    waiting: Any = task.get_coro()
    for _ in range(_MOST_FRAMES):
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is None:
            return
        code = frame.f_code
        yield f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_qualname}'
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


def _lines(stack: Sequence[traceback.FrameSummary]) -> list[str]:
    return [f'  File "{one.filename}", line {one.lineno}, in {one.name}' for one in stack]


def _actors_by_node() -> Mapping[str, dict[int, str]]:
    """Processes of this job's actors that live, by node: process id -> class and name."""
    from ray._private.state import actors

    job, by_node = ray.get_runtime_context().get_job_id(), defaultdict[str, dict[int, str]](dict)
    for actor in actors().values():
        if actor["State"] == "ALIVE" and actor["JobID"] == job:
            title = f"{actor['ActorClassName']} {actor['ActorID'][:8]}"
            by_node[actor["Address"]["NodeID"]][actor["Pid"]] = title
    return by_node


async def _of_node(node: str, processes: dict[int, str]) -> str:
    where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    call = _node_stacks.options(scheduling_strategy=where).remote(processes)
    try:
        return await asyncio.wait_for(call, _NODE_S)
    except (TimeoutError, ray.exceptions.RayError) as error:
        names = ", ".join(f"{title} ({pid})" for pid, title in processes.items())
        return f"== node {node} did not answer within {_NODE_S:g} s ({error!r}): {names} =="


def stacks_below(processes: Mapping[int, str]) -> str:
    """Stacks of processes of this node, by their titles, and of those below them."""
    import psutil

    parts = []
    for pid, title in processes.items():
        try:
            below = psutil.Process(pid).children(recursive=True)
        except psutil.Error:
            below = []
        parts.append(f"== {title}, process {pid} ==\n{take_stacks(pid)}")
        parts += [
            f"== below {title}: {_command(one)}, process {one.pid} ==\n{take_stacks(one.pid)}"
            for one in below
        ]
    return "\n".join(parts)


def _command(process: Any) -> str:
    import psutil

    try:
        return " ".join(itertools.islice(process.cmdline(), 4))[:120]
    except psutil.Error:
        return "?"


_node_stacks: Any = ray.remote(num_cpus=0, max_retries=0)(stacks_below)
