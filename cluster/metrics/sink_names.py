"""Names of figures as a sink takes them: escaped where it must be, never dropped, no two alike.

    grpo/label/drink beer/accuracy -> SinkNames of a sink -> the same, or with others' characters

Labels and reward functions give their names to figures, so any text may come. A name that a sink
does not take, or that another figure has there, ends in ``_`` and 8 digits of its own hash: the
same in every attempt.
"""

import functools
import hashlib
import re
from collections.abc import Callable

from cluster.metrics.catalogue import METRICS, describe

Spell = Callable[[str], tuple[str, bool]]
"""Name -> how a sink takes it, and whether that alone tells it from other names."""


class SinkNames:
    """Table of the names of one sink."""

    def __init__(self, spell: Spell, max_bytes: int) -> None:
        self._spell, self._max_bytes = spell, max_bytes
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()

    def of(self, name: str) -> str:
        """The sink's name of a figure."""
        if name not in self._names:
            spelled, is_own = self._spell(name)
            if not is_own or spelled in self._taken or len(_bytes(spelled)) > self._max_bytes:
                digest = hashlib.sha256(_bytes(name)).hexdigest()[:8]
                spelled = f"{_cut(spelled, self._max_bytes - 9)}_{digest}"
            self._taken.add(spelled)
            self._names[name] = spelled
        return self._names[name]


def dashboard_names() -> SinkNames:
    """Names for TensorBoard and W&B, which take all but control characters and half characters."""

    def spell(name: str) -> tuple[str, bool]:
        spelled = _UNPRINTED.sub("_", name)
        return spelled, spelled == name

    return SinkNames(spell, 500)


def mlflow_names() -> SinkNames:
    """Names for MLflow: letters, digits, ``_-. :/``, at most 250, and paths of files. A figure
    below another (``label/L/reward/PART``, ``learning_rate/merger``) is joined to it by a dot,
    because its file cannot be in a file."""

    def spell(name: str) -> tuple[str, bool]:
        legal = re.sub(r"[^\w\-. :/]", "_", name)
        path = "/".join("_" if part in ("", ".", "..") else part for part in legal.split("/"))
        return _not_below(path), path == name

    return SinkNames(spell, 250)


def prometheus_names() -> SinkNames:
    """Names for Prometheus: ASCII letters, digits and single ``_`` (exporters make one of several),
    also where our names have ``/``. A label or reward function in the name must be of these to
    stay as it is."""

    def spell(name: str) -> tuple[str, bool]:
        return re.sub(r"[\W_]+", "_", name, flags=re.ASCII).strip("_"), _is_plain(name)

    return SinkNames(spell, 200)


# Cc, bidirectional overrides and isolates, half characters (surrogates): what breaks a dashboard
_UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _is_plain(name: str) -> bool:
    """Whether all words in a name that are not ours are of ASCII letters, digits and single
    ``_``."""
    metric = describe(name)
    words = metric.pattern.fullmatch(name) if metric else None
    others = words.groups() if words else (name,)
    return all(re.fullmatch(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*", word) for word in others)


@functools.cache
def _parents() -> tuple[re.Pattern[str], ...]:
    """Names below which others may be."""
    patterns = (one.pattern.pattern for one in METRICS if not one.area.startswith("Evaluation"))
    return tuple(re.compile(f"(?:[^/]+/)?{pattern}") for pattern in patterns)


def _not_below(path: str) -> str:
    parts = path.split("/")
    for end in range(len(parts) - 1, 0, -1):
        above = "/".join(parts[:end])
        if any(pattern.fullmatch(above) for pattern in _parents()):
            return f"{above}.{'.'.join(parts[end:])}"
    return path


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _cut(name: str, num_bytes: int) -> str:
    return _bytes(name)[:num_bytes].decode("utf-8", "ignore")
