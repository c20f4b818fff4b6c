"""Service: its parts, opened in order over one state directory, and closed in reverse.

    async with open_service(config, parts) as service:
        await service.start()            # engines; HTTP may be up before, and says "loading"

A part adds here: its import, its field, its line in ``_open_parts``, its tables in ``_SCHEMAS``; if
it has work of its own, a line in ``start``; if it keeps the service from being ready, one in
``not_ready``. What it closes it pushes on the stack.
"""

import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

from calibrate.service.batches import files, journal
from calibrate.service.batches.batches import Batches
from calibrate.service.batches.files import BatchFiles
from calibrate.service.classification import BatchLines, Classification
from calibrate.service.config import ServiceConfig
from calibrate.service.decisions import decisions
from calibrate.service.decisions.decisions import Decisions
from calibrate.service.intake.clips import Intake
from calibrate.service.intake.frames import FramePictures
from calibrate.service.intake.store import ClipStore
from calibrate.service.jobs import job
from calibrate.service.jobs.jobs import Jobs
from calibrate.service.metrics import Metrics
from calibrate.service.policies import policies
from calibrate.service.policies.policies import Policies
from calibrate.service.protocols import ClassifierBackend, ClipInspector, TraceBrowser
from calibrate.service.reviews import reviews
from calibrate.service.reviews.reviews import Reviews
from calibrate.service.serving.serving import Serving
from calibrate.service.state import audit, idempotency, registry, tokens
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database
from calibrate.service.state.idempotency import IdempotencyKeys
from calibrate.service.state.registry import Registry
from calibrate.service.state.tokens import Tokens
from wire.errors import ConfigError

_SCHEMAS = (
    idempotency.SCHEMA,
    audit.SCHEMA,
    tokens.SCHEMA,
    registry.SCHEMA,
    policies.SCHEMA,
    decisions.SCHEMA,
    reviews.SCHEMA,
    job.SCHEMA,
    files.SCHEMA,
    journal.SCHEMA,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Parts that know engines, decoders and learners; ``cluster/serving/`` has them."""

    backend: ClassifierBackend
    inspector: ClipInspector
    traces: TraceBrowser
    fit_command: Sequence[str]
    """Begins a fit's process; the path of its specification follows."""


@dataclass(kw_only=True)
class Service:
    """The service: what routes need, by part."""

    config: ServiceConfig
    database: Database
    tokens: Tokens
    audit: Audit
    registry: Registry
    serving: Serving
    jobs: Jobs
    idempotency: IdempotencyKeys
    clips: ClipStore
    intake: Intake
    pictures: FramePictures
    policies: Policies
    reviews: Reviews
    decisions: Decisions
    classification: Classification
    batches: Batches
    traces: TraceBrowser
    metrics: Metrics
    draining: bool = False
    """Whether it stops: no new requests, those that it has are answered."""
    in_progress: int = 0
    """Requests that are being answered."""

    async def start(self) -> None:
        """Begin what takes long or goes on by itself; ``not_ready`` says when it is up."""
        await self.serving.start()
        await self.jobs.start()
        await self.batches.start()

    def not_ready(self) -> list[str]:
        """Reasons for which a new clip would not be answered now; none: it is ready."""
        if self.draining:
            return ["the service is stopping"]
        reason = self.serving.not_ready_because
        return [] if reason is None else [reason]

    async def drain(self) -> None:
        """Wait until all is answered that was accepted, beside requests."""
        await self.batches.pause()
        await self.serving.drain()


@asynccontextmanager
async def open_service(config: ServiceConfig, parts: Parts) -> AsyncIterator[Service]:
    """Open the service's parts; afterwards close them in reverse. Raises ConfigError if another
    service has the state directory, DataError if that is no state of this program."""
    async with AsyncExitStack() as stack:
        stack.enter_context(_only_service(config))
        stack.push_async_callback(parts.backend.close)
        stack.push_async_callback(parts.inspector.close)
        service = await _open_parts(config, parts, stack)
        service.metrics.watch(
            "http_requests_in_progress", "Requests being answered.", lambda: service.in_progress
        )
        yield service


async def _open_parts(config: ServiceConfig, parts: Parts, stack: AsyncExitStack) -> Service:
    """The parts in the order of their floors."""
    database = Database.open(config.database, _SCHEMAS)
    stack.callback(database.close)
    log = Audit(database)
    clips = ClipStore(config.state / "clips", int(config.clip_store_gb * 2**30))
    intake = Intake(config, parts.inspector, clips)
    stack.callback(intake.close)
    registered = Registry(database, log, config.state / "classifiers")
    serving, metrics = Serving(registered, parts.backend, config), Metrics()
    serving.add_metrics(metrics)
    stack.push_async_callback(serving.close)
    rules = Policies(database, log)
    queue = Reviews(database, log, clips, double_share=config.double_blind_share)
    await queue.start()  # before the first upload: it keeps the clips of what waits
    decided = Decisions(database, log, rules, queue, audit_share=config.audit_share)
    decided.add_metrics(metrics)
    queue.add_metrics(metrics)
    stack.push_async_callback(decided.close)
    classification = Classification(intake, serving, decided)
    batches = Batches(
        database,
        log,
        BatchFiles(database, log, config.state / "batches", max_bytes=config.max_batch_file_bytes),
        BatchLines(classification, decided),
        in_flight=config.max_in_flight + config.max_queue // 4,
    )
    stack.push_async_callback(batches.close)
    jobs = Jobs(database, log, registered, config, parts.fit_command)
    stack.push_async_callback(jobs.close)
    jobs.add_metrics(metrics)
    return Service(
        config=config,
        database=database,
        tokens=Tokens(database),
        audit=log,
        registry=registered,
        serving=serving,
        jobs=jobs,
        idempotency=IdempotencyKeys(database, keep_s=config.idempotency_hours * 3_600),
        clips=clips,
        intake=intake,
        pictures=FramePictures(intake, parts.inspector, timeout_s=config.request_timeout_s),
        policies=rules,
        reviews=queue,
        decisions=decided,
        classification=classification,
        batches=batches,
        traces=parts.traces,
        metrics=metrics,
    )


@contextmanager
def _only_service(config: ServiceConfig) -> Iterator[None]:
    """The state directory, made if there is none, with its lock held. Raises ConfigError."""
    try:
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(config.state / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(
            f"the service's state cannot be kept in {config.state}: {error.strerror}; give "
            "--state a directory that you may write to"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another service uses {config.state}; stop it, or give --state another directory"
            ) from error
        yield
    finally:
        os.close(descriptor)
