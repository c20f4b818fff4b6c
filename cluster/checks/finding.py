"""What a check found: one thing, how bad it is, and what to do about it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from wire.errors import UserError


class Level(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """A run would refuse to start, or would be stopped by it."""
    WARNING = "warning"
    """A run would go through, and its result may be worse, or mean less, than it seems."""
    OK = "ok"
    """Looked at, and nothing is wrong."""


class Area(StrEnum):
    """What it is about, in the order in which a report has them."""

    RECIPE = "recipe"
    MANIFEST = "manifest"
    CLIPS = "clips"
    LABELS = "labels"
    SPLITS = "splits"
    LEAKS = "leaks"
    TRACES = "traces"
    MODEL = "model"
    PROMPTS = "prompts"
    REWARD = "reward"
    PLACEMENT = "placement"
    MEMORY = "memory"
    DISK = "disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found.

    Example:
        Finding(level=Level.WARNING, area=Area.SPLITS, what="3 clips are in two splits",
                remedy="keep each in one split", where=("train-1 = test-7", ...))
    """

    level: Level
    area: Area
    what: str
    remedy: str = ""
    """What to do; empty where nothing is to be done."""
    where: tuple[str, ...] = ()
    """The rows, files or settings that it is about, all of them."""


def ok(area: Area, what: str) -> Finding:
    """Nothing is wrong; ``what`` says what was seen."""
    return Finding(level=Level.OK, area=area, what=what)


def warning(area: Area, what: str, remedy: str, where: Sequence[str] = ()) -> Finding:
    """A run would go through."""
    return Finding(level=Level.WARNING, area=area, what=what, remedy=remedy, where=tuple(where))


def error(area: Area, what: str, remedy: str = "", where: Sequence[str] = ()) -> Finding:
    """A run would not go through."""
    return Finding(level=Level.ERROR, area=area, what=what, remedy=remedy, where=tuple(where))


@contextmanager
def refusals(findings: list[Finding], area: Area) -> Iterator[None]:
    """What the block refuses with a UserError becomes an error finding, and the check goes on."""
    try:
        yield
    except UserError as refused:
        findings.append(said(area, str(refused)))


def said(area: Area, sentence: str) -> Finding:
    """The error finding of an error's sentence: our errors say what to do after a semicolon."""
    what, _, remedy = sentence.rpartition("; ")
    return error(area, what or sentence, remedy if what else "")
