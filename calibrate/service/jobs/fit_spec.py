"""Specification of a fit, and the messages of its process: both ends of the wire between them.

    service -> spec.json in the job's folder -> fit process
    service <- JSON lines on its stdout      <- fit process

The process is the leader of its group, and ends when its stdin does: the service holds the other
end of that pipe, however it goes down.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from wire.config import Config
from wire.strict_json import to_json

INTERRUPTED = 130
"""Exit status of a process that ended in order because it was asked to."""


class FitSpec(Config):
    """What a fit's process is to do."""

    source: Path
    """A run's directory, or an archive."""
    out: Path
    """The classifier to make; of a watcher: the folder of its candidates."""
    watch: bool = False
    """Follow a run that trains, and fit each version that is better, until it ends."""
    recipe: Path | None = None
    """Settings of an archive without its run."""
    model: Path | None = None
    """Weights of its policy."""
    stage: str | None = None
    """The calibration whose settings count; of a watcher: the GRPO stage that it follows."""
    versions: str | None = None
    """Policy versions whose traces are learned from, such as 0.200-0.241."""
    purpose: Literal["calibration", "train"] = "calibration"
    """Of those traces."""
    methods: tuple[Literal["verdict", "head"], ...] = ()
    """What is fitted; none: what the recipe says."""
    settings: tuple[str, ...] = ()
    """``a.b=c`` over the recipe."""
    allow_foreign: bool = False
    """Fit traces that another policy wrote, and mark the classifier."""
    last: int = 4
    """Versions whose training traces a watcher's candidate learns from."""
    cores: tuple[int, ...]
    """Cores that it keeps to."""
    gpus: tuple[int, ...] = ()
    """GPUs that it may use."""
    places: tuple[Path, ...]
    """Lock files, one per fit that may go on at a time: whoever fits holds one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Phase of a fit, and how far it is.

    Example:
        Phase(phase="calibrated", done=12, total=114)
    """

    phase: str
    done: int | None = None
    total: int | None = None
    """Parts of the phase; None: not counted."""
    kind: Literal["phase"] = "phase"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A classifier directory that is whole.

    Example:
        Published(name="0.41", path="/state/fits/fit_1/work/candidates/0.41")
    """

    name: str
    """Unique in the job."""
    path: str
    kind: Literal["published"] = "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Failure of a fit.

    Example:
        Failed(error="DataError", detail="the archive has no traces for train", is_final=True)
    """

    error: str
    """Name of its class in wire/errors.py."""
    detail: str
    is_final: bool
    """Whether the same order would fail again; else it is tried again from its checkpoint."""
    kind: Literal["failed"] = "failed"


Message = Annotated[Phase | Published | Failed, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[Phase | Published | Failed] = TypeAdapter(Message)


def message_line(message: Phase | Published | Failed) -> str:
    """A message as its line."""
    values: dict[str, Any] = _ADAPTER.dump_python(message, mode="json")
    return to_json(values)


def read_message(line: bytes) -> Phase | Published | Failed | None:
    """The message in a line; None: it holds none."""
    try:
        return _ADAPTER.validate_json(line)
    except ValidationError:
        return None
