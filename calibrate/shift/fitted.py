"""Reference of a fit: features of the traces that its classifier was calibrated on, with what the
classifier itself says of them.

traces of val and held-out clips, calibrated probabilities -> TraceFeatures -> TraceReference
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from calibrate.shift.features import TraceFeatures, TraceReference
from calibrate.traces import TraceSet
from wire.labels import LabelSet


def reference_of_fit(
    parts: Iterable[tuple[TraceSet, NDArray[np.float64]]], labels: LabelSet
) -> TraceReference | None:
    """Reference of parts, each with the calibrated probabilities [G, L] of its groups; the first
    trace of a group counts, as in use. None without a trace."""
    features = [one for traces, rows in parts for one in _features(traces, rows, labels)]
    return TraceReference.of(features, labels.names) if features else None


def _features(
    traces: TraceSet, rows: NDArray[np.float64], labels: LabelSet
) -> Iterator[TraceFeatures]:
    for group, row in zip(traces.groups, rows, strict=True):
        if group.traces:
            completion = group.traces[0].completion
            confidence = float(row.max())
            yield TraceFeatures.of(completion.text, completion.logprobs, labels, confidence)
