"""Replicas of a loaded classifier on a Ray cluster, placed, scaled and restarted by Ray Serve.

    the service (HTTP, state, decisions: one process) -> deployment handle -> a replica on any node
        -> Pipeline, vLLM below it -> Evidence

Serve's own HTTP stays off: it accepts requests while it drains, and knows no queue of ours. A clip
that the replica's node does not have goes there with the request; classifiers lie on storage that
all nodes share.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from calibrate.decision import Evidence
from calibrate.service.protocols import ClipToClassify
from cluster.actors.placement import connect_to
from cluster.serving.machine import ServingMachine, order_of
from cluster.serving.worker import Answerer, open_order, sample_of
from video.address import View
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import DeadlineExceeded, GenerationError, WorkerDied
from wire.types import Failure

Opener = Callable[[Mapping[str, Any]], AbstractAsyncContextManager[Answerer]]

_START_S = 1_800.0
_TRIES = 3
"""Of a request whose replica was lost; Serve sends it to another one, or to the restarted one."""
_DESCRIPTORS = Path("/proc")
"""Names of open descriptors, to which the links of intake point: on another node another file."""
_HEALTH_S = 2.0
_OBJECT_STORE_MB = 512.0
_BUSY_SHARE = 0.75
"""Of the clips in flight that one replica takes: above it Serve adds one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """Number of replicas of each loaded classifier; between the two, Serve follows the load."""

    least: int = 1
    most: int = 1


class _Replica:
    """A classifier in a Ray actor."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, order: Mapping[str, Any], opener: Opener
    ) -> None:
        self._ended = AsyncExitStack()
        self._pipeline = await self._ended.enter_async_context(opener(order))
        self._folder = Path(tempfile.mkdtemp(prefix="deepintuit-clips-"))

    async def evidence(
        self, clip: ClipToClassify, content: bytes | None, view: str | None
    ) -> Evidence | Failure | None:
        """Evidence about a clip; None: this node has it not, and gets no ``content``."""
        here = await asyncio.to_thread(self._here, clip, content)
        if here is None:
            return None
        shown = View(view) if view is not None else None
        return await self._pipeline.evidence(sample_of(here), shown)

    def check_health(self) -> None:
        """Raise if an engine's process has ended: Serve then starts another replica."""
        if not self._pipeline.is_alive:
            raise RuntimeError("an engine's process has ended")

    def _here(self, clip: ClipToClassify, content: bytes | None) -> ClipToClassify | None:
        if content is None:
            return clip if clip.path.is_file() else None
        path = self._folder / (hashlib.sha256(content).hexdigest() + clip.path.suffix)
        if not path.exists():
            partial_path = path.with_suffix(".partial")
            partial_path.write_bytes(content)
            partial_path.rename(path)
        return replace(clip, path=path)


class ReplicaClient:
    """A loaded classifier on Ray; an OpenClassifier."""

    def __init__(self, name: str, handle: Any) -> None:
        self._name, self._handle = name, handle
        self._is_closed = False

    async def evidence(self, clip: ClipToClassify, view: str | None = None) -> Evidence | Failure:
        """Evidence about a clip or a view of it. Raises WorkerDied if replicas were lost again and
        again."""
        lost: Exception | None = None
        content: bytes | None = None
        if clip.path.is_symlink() or clip.path.is_relative_to(_DESCRIPTORS):
            content = await asyncio.to_thread(clip.path.read_bytes)
        for _ in range(_TRIES):
            if self._is_closed:
                raise WorkerDied(f"{self._name} was closed")
            try:
                answer = await self._handle.evidence.remote(clip, content, view)
                if answer is None:
                    content = await asyncio.to_thread(clip.path.read_bytes)
                    answer = await self._handle.evidence.remote(clip, content, view)
            except (GenerationError, RayActorError, RayServeException) as error:
                lost = error
                await asyncio.sleep(_HEALTH_S)  # Serve sees by then that it is lost
            else:
                evidence: Evidence | Failure = answer
                return evidence
        raise WorkerDied(f"{_TRIES} replicas of {self._name} were lost: {lost}") from lost

    async def close(self) -> None:
        """End its replicas and their engines."""
        self._is_closed = True
        await run_in_daemon_thread(partial(serve.delete, self._name, _blocking=True))


class RayServeBackend:
    """A ClassifierBackend whose classifiers run as deployments of Ray Serve."""

    def __init__(
        self,
        machine: ServingMachine,
        replicas: Replicas,
        *,
        address: str | None = None,
        start_timeout_s: float = _START_S,
        opener: Opener = open_order,
        debug: bool = False,
    ) -> None:
        """Connect to the Ray at ``address``; None: to the one that this process is connected to, or
        a local one. Raises PlacementError."""
        self._machine, self._replicas = machine, replicas
        self._timeout_s, self._opener = start_timeout_s, opener
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            remedy = "mend --ray or RAY_ADDRESS, or give --ray alone for a local Ray"
            connect_to(address, object_store_mb=_OBJECT_STORE_MB, debug=debug, remedy=remedy)
        serve.start(proxy_location="Disabled")

    async def open(self, directory: Path) -> ReplicaClient:
        """Deploy a published classifier. Raises GenerationError if no replica starts,
        DeadlineExceeded."""
        name = (
            f"classifier-{directory.name}-{hashlib.sha256(str(directory).encode()).hexdigest()[:8]}"
        )
        application = self._application(directory)
        run = partial(serve.run, application, name=name, route_prefix=None)
        try:
            async with asyncio.timeout(self._timeout_s):
                handle = await run_in_daemon_thread(run)
        except TimeoutError as error:
            await run_in_daemon_thread(partial(serve.delete, name, _blocking=False))
            raise DeadlineExceeded(
                f"{name} was not ready on Ray after {self._timeout_s:.0f} s; `ray status` shows "
                "what is free, Serve's logs what it printed"
            ) from error
        except (RuntimeError, RayServeException) as error:  # a constructor failed
            why = await run_in_daemon_thread(_why, name)
            await run_in_daemon_thread(partial(serve.delete, name, _blocking=False))
            raise GenerationError(f"{name} did not start on Ray: {why or error}") from error
        return ReplicaClient(name, handle)

    async def close(self) -> None:
        """End Serve, and the Ray that was started or connected to for it."""
        await run_in_daemon_thread(serve.shutdown)
        if self._owns_ray:
            await run_in_daemon_thread(ray.shutdown)

    def _application(self, directory: Path) -> Any:
        machine, (least, most) = self._machine.of_each, (self._replicas.least, self._replicas.most)
        scale: dict[str, Any] = {"num_replicas": least}
        if most > least:
            target = max(1.0, machine.in_flight * _BUSY_SHARE)
            bounds = {"min_replicas": least, "max_replicas": most}
            scale = {"autoscaling_config": {**bounds, "target_ongoing_requests": target}}
        deployment: Any = serve.deployment(
            name="replica",
            ray_actor_options={
                "num_gpus": machine.num_gpus,
                "num_cpus": 2 if machine.num_gpus else machine.num_threads,
            },
            max_ongoing_requests=machine.in_flight,
            health_check_period_s=_HEALTH_S,
            max_constructor_retry_count=1,
            **scale,
        )
        return deployment(_Replica).bind(order_of(str(directory), machine, ()), self._opener)


def _why(name: str) -> str:
    """Last lines of what Serve knows of a deployment that failed."""
    application = serve.status().applications.get(name)
    if application is None:
        return ""
    lines = [
        line.strip()
        for deployment in application.deployments.values()
        for line in deployment.message.splitlines()
    ]
    errors = [line for line in lines if "rror" in line]
    return "; ".join(errors[-2:])
