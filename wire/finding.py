"""Findings of a check: one fault each, with its level, its area and a remedy."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from wire.errors import UserError


class Level(StrEnum):
    """Level of a finding."""

    ERROR = "error"
    """A run would refuse to start, or would be stopped by it."""
    WARNING = "warning"
    """A run would go through, and its result may be worse, or mean less, than it seems."""
    OK = "ok"
    """Checked, and in order."""


class Area(StrEnum):
    """Area of a finding; a report follows this order."""

    RECIPE = "recipe"
    MANIFEST = "manifest"
    CLIPS = "clips"
    LABELS = "labels"
    SPLITS = "splits"
    LEAKS = "leaks"
    TRACES = "traces"
    ARCHIVE = "archive"
    MODEL = "model"
    PROMPTS = "prompts"
    REWARD = "reward"
    PLACEMENT = "placement"
    MEMORY = "memory"
    DISK = "disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Finding of a check: a fault with its remedy, or that an area is in order.

    Example:
        Finding(level=Level.WARNING, area=Area.SPLITS, what="3 clips are in two splits",
                remedy="keep each in one split", where=("train-1 = test-7", ...))
    """

    level: Level
    area: Area
    what: str
    remedy: str = ""
    """What to do; empty where nothing needs doing."""
    where: tuple[str, ...] = ()
    """All rows, files or settings that have the fault."""


def ok(area: Area, what: str) -> Finding:
    """Finding that an area is in order; ``what`` says what was checked."""
    return Finding(level=Level.OK, area=area, what=what)


def warning(area: Area, what: str, remedy: str, where: Sequence[str] = ()) -> Finding:
    """Finding of a fault that lets a run go through."""
    return Finding(level=Level.WARNING, area=area, what=what, remedy=remedy, where=tuple(where))


def error(area: Area, what: str, remedy: str = "", where: Sequence[str] = ()) -> Finding:
    """Finding of a fault that stops a run."""
    return Finding(level=Level.ERROR, area=area, what=what, remedy=remedy, where=tuple(where))


@contextmanager
def collect_refusals(findings: list[Finding], area: Area) -> Iterator[None]:
    """Turn a UserError of the block into an error finding, so that the check goes on."""
    try:
        yield
    except UserError as refused:
        findings.append(from_error(area, str(refused)))


def from_error(area: Area, sentence: str) -> Finding:
    """Error finding from an error's message: our messages give the remedy after a semicolon."""
    what, _, remedy = sentence.rpartition("; ")
    return error(area, what or sentence, remedy if what else "")
