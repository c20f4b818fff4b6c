"""Findings about the model, remembered from an earlier check of the same recipe, model and clips.

    recipe, model's files, rows, clip facts, our code -> key -> checked-model.json -> findings

They need the model's tokenizer and processor, and importing transformers takes most of a check's
time; a check in which nothing of the key has changed loads neither. Findings with an error are not
kept: the cause may be outside of the key.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cluster.check.clips import ClipScans
from cluster.config.recipe import RunConfig
from wire.finding import Area, Finding, Level
from wire.types import Sample, stable_hash
from wire.whole_file import write_json

_FILE = "checked-model.json"
_MOST = 16
"""Checks remembered; recipes that share a clip cache share the file."""
_ROOT = Path(__file__).parents[2]
_PACKAGES = ("wire", "video", "rollout", "learner", "cluster")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFindings:
    """Findings that need the model, and the size of its clips.

    Example:
        ModelFindings(findings=(ok(Area.MODEL, "configuration and tokenizer"),),
                      num_video_tokens=41600)
    """

    findings: tuple[Finding, ...]
    num_video_tokens: int | None
    """Video tokens of all distinct clips; None where the model could not be loaded."""


def key_of(
    config: RunConfig, stages: Sequence[str], samples: Iterable[Sample], scans: ClipScans
) -> str:
    """Key of all that the findings about the model depend on."""
    rows = hashlib.sha256()
    for sample in samples:
        rows.update(repr(sample).encode(errors="surrogatepass"))
    for file, scan in sorted(scans.items()):  # they come as their decoding ends
        rows.update(repr((file, scan)).encode(errors="surrogatepass"))
    folder = [(p.name, *_stamp(p)) for p in sorted(config.model.glob("*")) if p.is_file()]
    recipe = config.model_dump(mode="json")
    code = _code_stamp(), version("transformers")
    return stable_hash(recipe, list(stages), folder, rows.hexdigest(), code)


def recall(cache_dir: Path, key: str) -> ModelFindings | None:
    """The findings of an earlier check; None if it looked at anything else."""
    kept = _read(cache_dir).get(key)
    if kept is None:
        return None
    try:
        findings = tuple(
            Finding(
                level=Level(one["level"]),
                area=Area(one["area"]),
                what=one["what"],
                remedy=one["remedy"],
                where=tuple(one["where"]),
            )
            for one in kept["findings"]
        )
        return ModelFindings(findings=findings, num_video_tokens=kept["num_video_tokens"])
    except (KeyError, TypeError, ValueError):  # another version of us wrote it
        return None


def remember(cache_dir: Path, key: str, seen: ModelFindings) -> None:
    """Keep the findings of a check without errors. A folder that cannot be written is no fault:
    the next check looks again."""
    if any(finding.level is Level.ERROR for finding in seen.findings):
        return
    kept = {name: value for name, value in _read(cache_dir).items() if name != key}
    kept = dict(list(kept.items())[1 - _MOST :]) | {key: asdict(seen)}
    with suppress(OSError):
        write_json(cache_dir / _FILE, kept)


def _read(cache_dir: Path) -> Mapping[str, Any]:
    try:
        values = json.loads((cache_dir / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@cache
def _code_stamp() -> str:
    """Stamp of our own modules: another version of them may find something else."""
    files = [path for name in _PACKAGES for path in sorted((_ROOT / name).rglob("*.py"))]
    return stable_hash([(str(path.relative_to(_ROOT)), *_stamp(path)) for path in files])
