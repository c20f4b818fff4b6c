"""Hint for an unknown key in a recipe, from the tables of other systems' settings.

a key as typed elsewhere -> Moved -> our key, or why there is none
"""

from collections.abc import Iterator, Mapping, Sequence

from cluster.config.migration.moved import Moved
from cluster.config.migration.openrlhf import OPENRLHF
from cluster.config.migration.qwen_video import QWEN
from cluster.config.migration.trl import TRL
from cluster.config.migration.verl import VERL

_SHOWN = 5

SYSTEMS: Mapping[str, tuple[Moved, ...]] = {
    "verl": VERL,
    "TRL": TRL,
    "OpenRLHF": OPENRLHF,
    "Qwen": QWEN,
}


def hint(key: str, value: object, known: Sequence[str]) -> str | None:
    """Hint for an unknown key, if another system has it; else None.

    ``key`` is dotted, as typed; ``value`` may be a table, whose keys are then looked up;
    ``known`` are the keys of the section in which it was typed.
    """
    lines = [line for name in _leaves(key, value) if (line := _line(name, known))]
    if not lines:
        return None
    more = len(lines) - _SHOWN
    rest = [f"and {more} more, see docs/migration.md"] if more > 0 else []
    return "; ".join([*lines[:_SHOWN], *rest])


def _leaves(key: str, value: object) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield key
        return
    for name, inner in value.items():
        yield from _leaves(f"{key}.{name}", inner)


def _line(key: str, known: Sequence[str]) -> str | None:
    entry = _find(key)
    if entry is None:
        return None
    system, moved = entry
    own = _in_section(key, moved.ours, known)
    if own and own != moved.ours:
        advice = f"here it is {own}"
    elif moved.ours:
        advice = f"here it is {moved.ours}" + (f" ({moved.note})" if moved.note else "")
    else:
        advice = f"not here: {moved.note}"
    return f"unknown key {key!r} ({system}): {advice}"


def _in_section(key: str, ours: str, known: Sequence[str]) -> str:
    """Our key in the section of ``key``: calibrate.learning_rate for ``calibrate.lr``."""
    section = key.rpartition(".")[0]
    parts = ours.split(".")
    tails = [parts[start:] for start in range(1, len(parts)) if parts[start] in known]
    return ".".join([section, *tails[0]]) if section and tails else ""


def _find(key: str) -> tuple[str, Moved] | None:
    """Find the setting ``key``: by the whole key, else below a ``.*``, else by its last parts."""
    bare = key.lstrip("+~-")
    every = [(system, moved) for system, table in SYSTEMS.items() for moved in table]
    whole = (pair for pair in every if pair[1].theirs == bare)
    below = (p for p in every if p[1].theirs.endswith(".*") and bare.startswith(p[1].theirs[:-1]))
    return next(whole, None) or next(below, None) or _by_last_parts(bare, every)


def _by_last_parts(key: str, every: Sequence[tuple[str, Moved]]) -> tuple[str, Moved] | None:
    """Find a setting by the last parts of ``key``, as in ``optim.lr``, if they are unambiguous."""
    parts = key.split(".")
    for start in range(len(parts)):
        tail = ".".join(parts[start:])
        same = [p for p in every if p[1].theirs == tail or p[1].theirs.endswith("." + tail)]
        if same and (start < len(parts) - 1 or _tells(tail, same)):
            return same[0] if len({moved.ours or moved.note for _, moved in same}) == 1 else None
    return None


def _tells(word: str, same: Sequence[tuple[str, Moved]]) -> bool:
    """Whether a single word identifies a setting: ``steps`` and ``path`` do not."""
    return "_" in word or word == "lr" or any(moved.theirs == word for _, moved in same)
