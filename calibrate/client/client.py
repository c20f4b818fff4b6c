"""Client of the calibration service, for programs without an event loop.

    with Client("http://127.0.0.1:8000", token) as client:
        decision = client.classify("cat.mp4")
        for clip, answer in zip(clips, client.classify_many(clips)): ...

Refusals that pass (429, 503) and broken connections are tried again, under one Idempotency-Key, so
that a clip is decided once. Safe to use from threads. async_client.py is the same for asyncio.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from calibrate.client import calls
from calibrate.client.calls import Call, Clip, OnServer, as_clip
from calibrate.client.errors import ProblemError
from calibrate.client.exchange import Exchange, settings_of
from calibrate.client.results import Batch, Classifier, Decision, Fit, Review
from calibrate.client.retries import Retries

T = TypeVar("T")
Video = Path | str | OnServer | Clip


class Client:
    """Client of a calibration service. Every call raises ProblemError for what the service
    refuses, and NotAnswered if there is no answer."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        retries: Retries = Retries(),  # noqa: B008  frozen
        connections: int = 64,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """``url``: such as http://127.0.0.1:8000; ``connections``: open at a time, at most;
        ``transport``: httpx's, in place of the network. Raises ConfigError."""
        self._url, self._retries = url, retries
        self._http = httpx.Client(**settings_of(url, token, connections), transport=transport)

    def classify(
        self, video: Video, *, classifier: str | int | None = None, control: str | None = None
    ) -> Decision:
        """Classify a clip: a file of this machine, an address, ``OnServer`` or ``Clip``.

        ``classifier``: an alias or a version, default the champion; ``control``: shuffled, blank or
        reversed, to decide about that view too. Raises OSError if the file cannot be read.
        """
        return self._send(calls.classify(as_clip(video), classifier, control))

    def classify_many(
        self,
        videos: Iterable[Video],
        *,
        classifier: str | int | None = None,
        control: str | None = None,
        concurrency: int = 16,
    ) -> Iterator[Decision | ProblemError | OSError]:
        """Decisions in the order of the clips; a clip that is refused, or whose file cannot be
        read, has its error in place of a decision. ``concurrency``: clips at a time."""

        def one(video: Video) -> Decision | ProblemError | OSError:
            try:
                return self.classify(video, classifier=classifier, control=control)
            except ProblemError as error:
                return error
            except OSError as error:
                if isinstance(error, ConnectionError):  # nobody answers: so will it be for the rest
                    raise
                return error

        waiting: deque[Future[Decision | ProblemError | OSError]] = deque()
        with ThreadPoolExecutor(concurrency, thread_name_prefix="classify") as pool:
            try:
                for video in videos:
                    waiting.append(pool.submit(one, video))
                    if len(waiting) >= concurrency:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def decision(self, decision_id: str) -> Decision:
        """A decision of the past."""
        return self._send(calls.decision(decision_id))

    def decisions(self, **conditions: str) -> Iterator[Decision]:
        """Decisions that meet all conditions (label="undo", decision="review"), newest first."""
        cursor: str | None = None
        while True:
            rows, cursor = self._send(calls.decisions(cursor, conditions))
            yield from rows
            if cursor is None:
                return

    def explain(
        self, decision_id: str, *, replay: bool = False, control: str | None = None
    ) -> dict[str, Any]:
        """Explanation of a decision, recomputed; ``replay``: the engine is asked again."""
        return self._send(calls.explain(decision_id, replay=replay, control=control))

    def classifiers(self) -> list[Classifier]:
        """All registered classifiers."""
        return self._send(calls.classifiers())

    def classifier(self, ref: str | int = "champion") -> Classifier:
        """A registered classifier, by version or alias."""
        return self._send(calls.classifier(ref))

    def split(
        self, label: str, into: Sequence[str], *, ref: str | int = "champion", **settings: Any
    ) -> Classifier:
        """Split a label of a classifier into several: a new version, which nothing promotes;
        settings as in ``POST /v1/classifiers/{ref}/split``. ProblemError ``phrases-proposed`` has
        phrases to look at, unless ``accept_proposed=True``."""
        return self._send(calls.split(ref, label, into, settings))

    def promote(
        self, version: int, *, reason: str = "", expected_champion: int | None = None
    ) -> dict[str, Any]:
        """Make a version the champion."""
        return self._send(calls.promote(version, reason, expected_champion))

    def roll_back(
        self, *, reason: str = "", expected_champion: int | None = None
    ) -> dict[str, Any]:
        """Make the previous champion the champion again; unless another than ``expected_champion``
        is champion now."""
        return self._send(calls.roll_back(reason, expected_champion))

    def fit(self, source: str, **settings: Any) -> Fit:
        """Begin a fit to an archive; settings as in ``POST /v1/fits``."""
        return self._send(calls.fit({"source": source, **settings}))

    def fits(self) -> list[Fit]:
        """All jobs of fits."""
        return self._send(calls.fits())

    def fit_job(self, fit_id: str) -> Fit:
        """One job, with its progress in ``raw``."""
        return self._send(calls.fit_job(fit_id))

    def cancel_fit(self, fit_id: str) -> Fit:
        """Cancel a fit."""
        return self._send(calls.cancel_fit(fit_id))

    def lease_reviews(self, num: int = 1, *, seconds: int = 600) -> list[Review]:
        """Take reviews from the queue; nobody else gets them until the lease ends."""
        return self._send(calls.lease_reviews(num, seconds))

    def complete_review(
        self, review_id: str, label: str | None, *, note: str = ""
    ) -> dict[str, Any]:
        """Answer a leased review; ``label`` None: cannot tell."""
        return self._send(calls.complete_review(review_id, label, note))

    def release_review(self, review_id: str) -> dict[str, Any]:
        """Give a leased review back."""
        return self._send(calls.release_review(review_id))

    def review_labels(self) -> list[dict[str, Any]]:
        """Labels that people gave, as rows of a manifest."""
        return self._send(calls.review_labels())

    def create_batch(
        self,
        requests: Path | Iterable[Mapping[str, Any]],
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> Batch:
        """Upload requests and begin a batch: a .jsonl file in OpenAI's shape, or its lines, which
        ``batch_requests`` makes of clips."""
        file_id = self._send(calls.upload_batch(requests))
        return self._send(calls.create_batch(file_id, metadata))

    def batch(self, batch_id: str) -> Batch:
        """A batch, as it is now."""
        return self._send(calls.batch(batch_id))

    def cancel_batch(self, batch_id: str) -> Batch:
        """Cancel a batch."""
        return self._send(calls.cancel_batch(batch_id))

    def wait_for_batch(self, batch_id: str, *, poll_s: float = 2.0) -> Batch:
        """A batch, once it has ended."""
        while not (batch := self.batch(batch_id)).has_ended:
            time.sleep(poll_s)
        return batch

    def batch_rows(self, batch: Batch) -> list[dict[str, Any]]:
        """Rows of a batch's output and then of its error file, in OpenAI's shape."""
        files = [name for name in (batch.output_file_id, batch.error_file_id) if name is not None]
        return [row for name in files for row in self._send(calls.file_rows(name))]

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        exchange = Exchange(call, self._retries, self._url)
        while True:
            try:
                with exchange.arguments() as arguments:
                    response = self._http.request(**arguments)
            except httpx.TransportError as error:
                wait = exchange.wait_after_break(error)
            else:
                if response.is_success:
                    return exchange.result(response)
                wait = exchange.wait_after(response)
            time.sleep(wait)
