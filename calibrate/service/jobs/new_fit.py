"""Fit that a caller asks for: checked before it is queued, without an engine or an archive's row.

source: name of an archive of the service, or a path under an allowed root
settings: of the calibration, the learner and the seed; nothing that names a file or a host
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from calibrate.service.config import ServiceConfig
from calibrate.service.problems import Problem
from wire.config import Config

_LONGEST = 4_096
_SETTING = re.compile(
    r"(?:(?:calibrate|learner)(?:\.[a-z][a-z0-9_]*)+|seed)="
    r"[^\x00-\x1f\ud800-\udfff]*"  # no text in UTF-8 has the latter
)
_VERSIONS = r"\d{1,9}\.\d{1,9}(-\d{1,9}\.\d{1,9})?"
_Name = Field(default=None, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f/]+$")
_Path = Field(default=None, min_length=1, max_length=_LONGEST)


class NewFit(Config):
    """A fit, as POST /v1/fits has it."""

    source: str = Field(min_length=1, max_length=_LONGEST)
    """Name of an archive of the service, or the path of a run or an archive under an allowed
    root."""
    watch: bool = False
    """Follow a run that still trains: a standing job, which registers a classifier for each version
    that is measured better on val, until the run ends."""
    propose: bool = True
    """Make what is registered the challenger."""
    stage: str | None = _Name
    """The calibration whose settings count, or with ``watch`` the GRPO stage to follow; default:
    the run's last one."""
    versions: str | None = Field(default=None, pattern=f"^{_VERSIONS}$")
    """Policy versions whose traces are learned from, such as 0.200-0.241; default: those of the
    policy that is served."""
    purpose: Literal["calibration", "train"] = "calibration"
    """Of those traces."""
    methods: tuple[Literal["verdict", "head"], ...] = Field(default=(), max_length=2)
    """What is fitted; default: what the recipe says."""
    settings: tuple[str, ...] = Field(default=(), max_length=64)
    """``a.b=c`` over the recipe: of ``calibrate``, ``learner`` and ``seed``."""
    allow_foreign: bool = False
    """Fit traces that another policy wrote than the one served, and mark the classifier."""
    recipe: str | None = _Path
    """Recipe of an archive without its run: a path under an allowed root."""
    model: str | None = _Path
    """Weights of its policy: a path under an allowed root."""

    @field_validator("settings")
    @classmethod
    def _is_setting(cls, settings: tuple[str, ...]) -> tuple[str, ...]:
        for setting in settings:
            if len(setting) > _LONGEST or _SETTING.fullmatch(setting) is None:
                raise ValueError(
                    f"{setting[:80]!r} is none that a fit takes here; give calibrate.NAME=VALUE, "
                    "learner.NAME=VALUE or seed=NUMBER"
                )
        return settings


_OF_ONE_FIT = ("versions", "allow_foreign", "recipe", "model")


def refuse_mixed(fit: NewFit) -> None:
    """Raise Problem 422 for what a watcher knows by itself."""
    for name in _OF_ONE_FIT if fit.watch else ():
        if getattr(fit, name):
            raise Problem(
                422,
                "not-of-a-watcher",
                f"{name} is of a single fit: with watch the run's own recipe, policies and "
                "training traces count; leave one of the two out",
            )


def source_path(fit: NewFit, config: ServiceConfig) -> Path:
    """The run or archive of a fit. Raises Problem 403, 404, 422."""
    known = config.archives.get(fit.source)
    if known is None and not fit.source.startswith("/"):
        names = ", ".join(sorted(config.archives)) or "none"
        raise Problem(
            404,
            "no-such-archive",
            f"there is no archive {fit.source[:80]!r}; the service has: {names}; or give the "
            "absolute path of a run",
        )
    path = known.resolve() if known is not None else allowed_path(fit.source, config.roots)
    if not path.is_dir():
        raise Problem(404, "no-such-source", f"{path} is no folder; give a run, or an archive")
    run = any((folder / "run.json").is_file() for folder in (path, path.parent))
    if not run and not (path / "traces").is_dir() and not any(path.glob("journal-*.bin")):
        raise Problem(
            422, "no-archive", f"{path} holds no run and no archive; give a run's directory"
        )
    if fit.watch and not run:
        raise Problem(
            422, "not-of-a-watcher", f"{path} is no run: watch follows one that trains; give it"
        )
    return path


def allowed_path(text: str, roots: Sequence[Path]) -> Path:
    """A path under one of the roots, with all links followed. Raises Problem 403, 404; what is
    there outside of the roots is not told."""
    path = _resolved(text)
    if path is None or not any(path.is_relative_to(root.resolve()) for root in roots):
        raise Problem(
            403,
            "outside-roots",
            f"{text[:200]!r} is no path under an allowed root; start the service with --root, or "
            "give the name of an archive",
        )
    if not path.exists():
        raise Problem(404, "no-such-source", f"there is no {path}; give a run, or an archive")
    return path


def _resolved(text: str) -> Path | None:
    if "\0" in text or not text.startswith("/"):
        return None
    try:
        return Path(text).resolve()
    except (OSError, RuntimeError):  # a name that is too long, links in a circle
        return None
