"""Rows of a classification by a service: clips of this machine are sent, its decisions come back.

    clips -> client (few at a time, tried again where the service says so) -> Decision -> Row
                                                                           -> refusal -> its failure

A refusal that is about no single clip (the token, the version, no answer) ends the command.
"""

import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from calibrate.client.async_client import AsyncClient
from calibrate.client.calls import Clip
from calibrate.client.client import Client
from calibrate.client.errors import ProblemError
from calibrate.client.results import Control, Decision
from calibrate.client.retries import Retries
from cluster.classify.inputs import ClipInputs, truth_of
from cluster.classify.rows import Controlled, Row, Versions
from rollout.prompt_template import value_text
from video.address import Address, View
from wire.errors import ConfigError
from wire.labels import Label, LabelSet
from wire.types import Failure, FailureKind, Sample

TOKEN = "DEEPINTUIT_TOKEN"
_IN_FLIGHT = 16
_NOT_OF_A_CLIP = (401, 403, 404, 409, 429, 503, 507)
_OPEN_END_S = 1e6
"""Of a window that goes to the clip's end."""
_ACTIONS: dict[str, Literal["auto", "review", "pass"]] = {
    "auto": "auto",
    "review": "review",
    "pass": "pass",
}
_SHOWN_HASH = 12
"""Digits of a hash in a row, as in those of engines here."""
_NO_VERSIONS = Versions(policy="", classifier="", calibrator="")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ClassifyingService:
    """A service as the command classify uses it."""

    def __init__(
        self, url: str, token: str | None, *, version: str | None = None, retry_s: float = 120.0
    ) -> None:
        """``version``: of the classifier, or an alias; default: the champion."""
        self._url, self._token, self._version, self._retry_s = url, token, version, retry_s

    @classmethod
    def at(
        cls,
        url: str,
        *,
        token_file: Path | None,
        version: str | None,
        say: Callable[[str], None],
    ) -> Self:
        """The service at an address, with the token of a file or of the environment. Raises
        ConfigError if there is none."""
        parts = urlsplit(url)
        if parts.scheme.lower() == "http" and parts.hostname not in _LOOPBACK:
            say(f"the token and the clips go to {parts.hostname} unencrypted; https hides them")
        return cls(url, _token(token_file), version=version)

    def clips(self, named: Sequence[str]) -> ClipInputs:
        """The clips that a command line names. Labels of manifests are those of the classifier, if
        the token may read them. Raises DataError, ProblemError, NotAnswered."""
        labels: LabelSet | None = None
        with Client(self._url, self._token, retries=Retries(seconds=self._retry_s)) as client:
            try:
                names = client.classifier(self._version or "champion").label_names
                labels = LabelSet(labels=tuple(Label(name=name) for name in names))
            except ProblemError as error:
                if error.status != 403:
                    raise
        return ClipInputs(named, labels)

    @asynccontextmanager
    async def rows(
        self, clips: ClipInputs, control: str | None, in_flight: int | None
    ) -> AsyncIterator[AsyncGenerator[Row]]:
        """Rows in the order of the clips. ``in_flight``: requests at a time."""
        number = in_flight or _IN_FLIGHT
        async with (
            AsyncClient(
                self._url,
                self._token,
                retries=Retries(seconds=self._retry_s),
                connections=number,
            ) as client,
            aclosing(self._rows(client, clips, control, number)) as rows,
        ):
            yield rows

    async def _rows(
        self, client: AsyncClient, clips: ClipInputs, control: str | None, in_flight: int
    ) -> AsyncGenerator[Row]:
        asked: deque[Sample] = deque()

        def noted() -> Iterator[Clip]:
            for sample in clips:
                asked.append(sample)
                yield _clip(sample)

        answers = client.classify_many(
            noted(), classifier=self._version, control=control, concurrency=in_flight
        )
        async with aclosing(answers):
            async for answer in answers:
                yield _row(asked.popleft(), answer)


def _token(file: Path | None) -> str:
    if file is None:
        if token := os.environ.get(TOKEN, "").strip():
            return token
        raise ConfigError(
            f"the service wants a token; put it into the environment as {TOKEN}, or into a file "
            "and give --token-file FILE"
        )
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {file} cannot be read: {error}") from error
    if not token:
        raise ConfigError(f"--token-file {file} is empty; it holds the token alone")
    return token


def _row(sample: Sample, answer: Decision | ProblemError | OSError) -> Row:
    if isinstance(answer, Decision):
        return _decided(sample, answer)
    return Row(
        id=sample.id,
        video=sample.video,
        versions=_NO_VERSIONS,
        truth=truth_of(sample),
        failure=_failure(sample, answer),
    )


def _decided(sample: Sample, decision: Decision) -> Row:
    versions, control = decision.versions, decision.control
    return Row(
        id=sample.id,
        video=sample.video,
        label=decision.label,
        probabilities=dict(decision.probabilities),
        prediction_set=decision.prediction_set,
        decision=_ACTIONS[decision.action],
        reasons=decision.reasons,
        votes=None if decision.votes is None else dict(decision.votes),
        truth=truth_of(sample),
        control=None if control is None else _controlled(sample, control),
        trace=decision.trace,
        frames=decision.frames,
        versions=Versions(
            policy=versions.policy,
            classifier=versions.classifier_hash[:_SHOWN_HASH],
            calibrator=versions.calibrator,
        ),
        seconds=float(decision.raw.get("seconds", {}).get("total", 0.0)),
        decision_id=decision.id,
    )


def _controlled(sample: Sample, control: Control) -> Controlled:
    reason = control.failure
    return Controlled(
        view=View(control.view),
        label=control.label,
        label_changed=control.label_changed,
        total_variation=control.total_variation,
        probabilities=dict(control.probabilities),
        failure=None if reason is None else _failed(FailureKind.GENERATION, sample, reason),
    )


def _failure(sample: Sample, error: ProblemError | OSError) -> Failure:
    """The failure of a clip. Raises the error again if it is none of a clip."""
    if isinstance(error, OSError):
        return _failed(FailureKind.DISK, sample, f"cannot be read: {error.strerror or error}")
    if error.status in _NOT_OF_A_CLIP:
        raise error
    stated = error.body.get("failure")
    kind = str(stated.get("kind")) if isinstance(stated, dict) else "decode"
    known = kind in FailureKind.__members__.values()
    return _failed(
        FailureKind(kind) if known else FailureKind.GENERATION, sample, error.detail or error.title
    )


def _failed(kind: FailureKind, sample: Sample, reason: str) -> Failure:
    return Failure(kind=kind, culprit=sample.id, reason=reason)


def _clip(sample: Sample) -> Clip:
    address = Address.parse(sample.video)
    window = address.window
    columns = ((name, value_text(value)) for name, value in sample.extra.items())
    return Clip(
        video=address.path,
        id=sample.id,
        window=None if window is None else (window.start_s, window.end_s or _OPEN_END_S),
        columns={name: text for name, text in columns if text is not None},
        text=sample.text,
    )
