"""Calls of the service: what each sends and how its answer is read. No network here.

clip, settings -> Call -> client.py or async_client.py sends it -> parse(answer)
"""

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from calibrate.client.results import Batch, Classifier, Decision, Fit, Review

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """File to send: a path of this machine, opened anew for each try, or its bytes."""

    part: str
    name: str
    content: Path | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One call of the service."""

    method: str
    path: str
    parse: Callable[[Any], T]
    params: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Mapping[str, str] = field(default_factory=dict)
    upload: Upload | None = None
    as_text: bool = False
    """Whether the answer is a text, and no JSON."""
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Idempotency-Key of a POST: the same for all its tries."""

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent twice."""
        return self.method in ("GET", "POST", "PUT", "DELETE")

    @property
    def headers(self) -> dict[str, str]:
        """Its own headers."""
        return {"Idempotency-Key": self.key} if self.method == "POST" else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnServer:
    """Clip that the service's machine has, below one of its allowed roots."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Clip to classify.

    Example:
        Clip(video=Path("cat.mp4"), id="cat", window=(3.0, 9.0))
    """

    video: Path | str | OnServer
    """A file of this machine, which is sent; an address (https://...), which the service fetches;
    or a path there."""
    id: str | None = None
    """Seeds the trace: the same id, clip and classifier give the same; default: the clip's hash."""
    window: tuple[float, float] | None = None
    """First second, and the one before which it ends; None: the whole video."""
    columns: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None


def as_clip(video: Path | str | OnServer | Clip) -> Clip:
    """The clip of a path or an address alone."""
    return video if isinstance(video, Clip) else Clip(video=video)


def classify(clip: Clip, classifier: str | int | None, control: str | None) -> Call[Decision]:
    """``POST /v1/classify``."""
    values: dict[str, Any] = {
        "id": clip.id,
        "window": None if clip.window is None else list(clip.window),
        "columns": dict(clip.columns) or None,
        "text": clip.text,
        "classifier": None if classifier is None else str(classifier),
        "control": control,
    }
    given = {name: value for name, value in values.items() if value is not None}
    if (video := _elsewhere(clip.video)) is not None:
        return _post("/v1/classify", Decision.from_json, {"video": video, **given})
    path = Path(str(clip.video))
    return Call(
        method="POST",
        path="/v1/classify",
        parse=Decision.from_json,
        form={n: v if isinstance(v, str) else json.dumps(v) for n, v in given.items()},
        upload=Upload(part="video", name=path.name, content=path),
    )


def decision(decision_id: str) -> Call[Decision]:
    """``GET /v1/decisions/{id}``."""
    return _get(f"/v1/decisions/{_segment(decision_id)}", Decision.from_json)


def decisions(
    cursor: str | None, conditions: Mapping[str, str]
) -> Call[tuple[list[Decision], str | None]]:
    """``GET /v1/decisions``: a page, and the cursor of the next one."""

    def parse(values: Any) -> tuple[list[Decision], str | None]:
        rows = [Decision.from_json(row) for row in values["decisions"]]
        return rows, values.get("next_cursor")

    cursors = {} if cursor is None else {"cursor": cursor}
    return _get("/v1/decisions", parse, {**conditions, **cursors})


def explain(
    decision_id: str, *, replay: bool = False, control: str | None = None
) -> Call[dict[str, Any]]:
    """``GET /v1/decisions/{id}/explain``."""
    params = {"replay": "true"} if replay else {}
    if control is not None:
        params["control"] = control
    return _get(f"/v1/decisions/{_segment(decision_id)}/explain", dict, params)


def classifiers() -> Call[list[Classifier]]:
    """``GET /v1/classifiers``."""
    return _get(
        "/v1/classifiers", lambda values: [Classifier.from_json(o) for o in values["classifiers"]]
    )


def classifier(ref: str | int) -> Call[Classifier]:
    """``GET /v1/classifiers/{ref}``."""
    return _get(f"/v1/classifiers/{_segment(ref)}", Classifier.from_json)


def split(
    ref: str | int, label: str, into: Sequence[str], settings: Mapping[str, Any]
) -> Call[Classifier]:
    """``POST /v1/classifiers/{ref}/split``."""
    body = {"label": label, "into": list(into), **settings}
    return _post(f"/v1/classifiers/{_segment(ref)}/split", Classifier.from_json, body)


def promote(version: int, reason: str, expected_champion: int | None) -> Call[dict[str, Any]]:
    """``POST /v1/classifiers/{version}/promote``."""
    body = {"reason": reason, "expected_champion": expected_champion}
    return _post(f"/v1/classifiers/{_segment(version)}/promote", dict, body)


def roll_back(reason: str, expected_champion: int | None) -> Call[dict[str, Any]]:
    """``POST /v1/aliases/champion/rollback``."""
    body = {"reason": reason, "expected_champion": expected_champion}
    return _post("/v1/aliases/champion/rollback", dict, body)


def fit(settings: Mapping[str, Any]) -> Call[Fit]:
    """``POST /v1/fits``."""
    return _post("/v1/fits", Fit.from_json, dict(settings))


def fits() -> Call[list[Fit]]:
    """``GET /v1/fits``."""
    return _get("/v1/fits", lambda values: [Fit.from_json(row) for row in values["fits"]])


def fit_job(fit_id: str) -> Call[Fit]:
    """``GET /v1/fits/{id}``."""
    return _get(f"/v1/fits/{_segment(fit_id)}", Fit.from_json)


def cancel_fit(fit_id: str) -> Call[Fit]:
    """``POST /v1/fits/{id}/cancel``."""
    return _post(f"/v1/fits/{_segment(fit_id)}/cancel", Fit.from_json, None)


def lease_reviews(num: int, seconds: int) -> Call[list[Review]]:
    """``POST /v1/reviews/lease``."""
    return _post(
        "/v1/reviews/lease",
        lambda values: [Review.from_json(row) for row in values["reviews"]],
        {"n": num, "seconds": seconds},
    )


def complete_review(review_id: str, label: str | None, note: str) -> Call[dict[str, Any]]:
    """``POST /v1/reviews/{id}/complete``; without a label: cannot tell."""
    body = {"label": label, "note": note}
    return _post(f"/v1/reviews/{_segment(review_id)}/complete", dict, body)


def release_review(review_id: str) -> Call[dict[str, Any]]:
    """``POST /v1/reviews/{id}/release``."""
    return _post(f"/v1/reviews/{_segment(review_id)}/release", dict, None)


def review_labels() -> Call[list[dict[str, Any]]]:
    """``GET /v1/reviews/labels``: rows of a manifest."""
    return _text("/v1/reviews/labels")


def upload_batch(requests: Path | Iterable[Mapping[str, Any]]) -> Call[str]:
    """``POST /v1/files``: the id of the uploaded requests."""
    if isinstance(requests, Path):
        upload = Upload(part="file", name=requests.name, content=requests)
    else:
        lines = "".join(json.dumps(dict(row)) + "\n" for row in requests)
        upload = Upload(part="file", name="batch.jsonl", content=lines.encode())
    return Call(
        method="POST",
        path="/v1/files",
        parse=lambda values: str(values["id"]),
        form={"purpose": "batch"},
        upload=upload,
    )


def create_batch(file_id: str, metadata: Mapping[str, str] | None) -> Call[Batch]:
    """``POST /v1/batches``."""
    body: dict[str, Any] = {
        "input_file_id": file_id,
        "endpoint": "/v1/classify",
        "completion_window": "24h",
    }
    return _post(
        "/v1/batches", Batch.from_json, body | ({"metadata": metadata} if metadata else {})
    )


def batch(batch_id: str) -> Call[Batch]:
    """``GET /v1/batches/{id}``."""
    return _get(f"/v1/batches/{_segment(batch_id)}", Batch.from_json)


def cancel_batch(batch_id: str) -> Call[Batch]:
    """``POST /v1/batches/{id}/cancel``."""
    return _post(f"/v1/batches/{_segment(batch_id)}/cancel", Batch.from_json, None)


def file_rows(file_id: str) -> Call[list[dict[str, Any]]]:
    """``GET /v1/files/{id}/content``: its JSON lines."""
    return _text(f"/v1/files/{_segment(file_id)}/content")


def batch_requests(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """Lines of a batch file for clips that the service reaches itself. Raises ValueError for a file
    of this machine: its bytes do not fit in."""
    rows = []
    for number, clip in enumerate(clips):
        if (video := _elsewhere(clip.video)) is None:
            raise ValueError(
                f"{clip.video}: a batch names clips by OnServer(path=...) or by an address; send "
                "files of this machine with classify_many"
            )
        body: dict[str, Any] = {"video": video, "id": clip.id, "window": clip.window}
        body |= {"columns": dict(clip.columns) or None, "text": clip.text}
        rows.append(
            {
                "custom_id": clip.id or str(number),
                "method": "POST",
                "url": "/v1/classify",
                "body": {name: value for name, value in body.items() if value is not None},
            }
        )
    return rows


def _elsewhere(video: Path | str | OnServer) -> dict[str, str] | None:
    if isinstance(video, OnServer):
        return {"path": video.path}
    if isinstance(video, str) and video.lower().startswith(("http://", "https://")):
        return {"url": video}
    return None


def _get(path: str, parse: Callable[[Any], T], params: Mapping[str, str] | None = None) -> Call[T]:
    return Call(method="GET", path=path, parse=parse, params=params or {})


def _post(path: str, parse: Callable[[Any], T], body: Any) -> Call[T]:
    return Call(method="POST", path=path, parse=parse, json=body)


def _text(path: str) -> Call[list[dict[str, Any]]]:
    def parse(text: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in text.split("\n") if line.strip()]

    return Call(method="GET", path=path, parse=parse, as_text=True)


def _segment(value: str | int) -> str:
    return quote(str(value), safe="")
