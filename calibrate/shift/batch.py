"""Two-sample test of a whole batch of served traces against archived ones, offline.

archived and served features -> distances -> energy statistic -> permutation p-value, effects

Energy distance (Szekely & Rizzo 2004) of the features together: ranks of the numbers in [0, 1],
the answered label and whether it was parsed as one-hot columns. The p-value is of a permutation
test (exact at its level for exchangeable traces, however many features there are). For one batch
that was not chosen by looking: a stream is the business of ``monitor.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibrate.shift.effects import Effect, effect_of
from calibrate.shift.features import TraceColumns, TraceFeatures, TraceReference
from wire.errors import DataError

Floats = NDArray[np.float64]

_NUMBERS = ("num_tokens", "mean_logprob", "confidence")
_MOST = 1000  # traces of each side that are compared; memory and time go with the square
_PERMUTATIONS = 999


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTest:
    """Two-sample test of a batch."""

    num_archived: int
    """Traces compared, at most 1,000 of each side."""
    num_served: int
    energy: float
    """Energy distance, 0 for equal distributions."""
    p_value: float
    effects: dict[str, Effect]
    """Of each feature."""


def compare_batch(
    reference: TraceReference, served: Sequence[TraceFeatures], *, seed: int = 0
) -> BatchTest:
    """Test whether a batch of served traces is drawn like the archived ones. Raises DataError
    without traces."""
    if not served:
        raise DataError("no served traces to compare")
    rng = np.random.default_rng(seed)
    columns = TraceColumns.of(served, reference.label_names)
    one, other = (_some(traces, rng) for traces in (reference.traces, columns))
    distances = _distances(_table(one.joined(other), len(reference.label_names)))
    side = np.arange(len(distances)) < len(one)
    sides = np.stack([side, *(rng.permutation(side) for _ in range(_PERMUTATIONS))])
    energies = energy_distances(distances, sides)
    return BatchTest(
        num_archived=len(one),
        num_served=len(other),
        energy=float(energies[0]),
        p_value=float((energies >= energies[0] - 1e-12).mean()),
        effects={
            name: effect_of(name, reference.traces, columns, reference.label_names)
            for name in ("parsed", "answer", *_NUMBERS)
        },
    )


def energy_distances(distances: Floats, sides: NDArray[np.bool_]) -> Floats:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| for each division [P, N] of points with distances
    [N, N]."""
    first = sides.astype(np.float64)
    second = 1 - first
    from_first = first @ distances
    num, rest = first.sum(axis=1), second.sum(axis=1)
    across = (from_first * second).sum(axis=1) / (num * rest)
    within = (from_first * first).sum(axis=1) / num**2
    beyond = ((second @ distances) * second).sum(axis=1) / rest**2
    return np.asarray(2 * across - within - beyond, dtype=np.float64)


def _some(traces: TraceColumns, rng: np.random.Generator) -> TraceColumns:
    if len(traces) <= _MOST:
        return traces
    return traces[np.sort(rng.choice(len(traces), _MOST, replace=False))]


def _table(traces: TraceColumns, num_labels: int) -> Floats:
    """[N, features], each number as its rank among all."""
    hits = np.eye(num_labels + 1)[traces.answer.astype(np.int64)] / np.sqrt(2)
    columns = [traces.parsed.astype(np.float64)]
    for name in _NUMBERS:
        values = getattr(traces, name)
        known = ~np.isnan(values)
        ordered = np.sort(values[known])
        ranks = np.full(len(values), 0.5)
        places = np.searchsorted(ordered, values[known], "left") + np.searchsorted(
            ordered, values[known], "right"
        )
        ranks[known] = places / 2 / max(len(ordered), 1)
        columns += [ranks, known.astype(np.float64)]
    return np.column_stack([*columns, hits])


def _distances(table: Floats) -> Floats:
    squares = (table**2).sum(axis=1)
    squared = squares[:, None] + squares[None, :] - 2 * table @ table.T
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)), dtype=np.float64)
