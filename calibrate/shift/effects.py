"""Effects: by how much served traces differ from archived ones in a feature, in numbers and words.

archived and served features -> effect_of -> Effect ("traces are longer: median 214 tokens ...")
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibrate.shift.features import TraceColumns

_WORDS = {
    "num_tokens": ("longer", "shorter", "traces are {}: median {:.0f} tokens"),
    "mean_logprob": ("more", "less", "tokens are {} probable: median of mean logprobs {:.3g}"),
    "confidence": ("higher", "lower", "confidence is {}: median {:.3g}"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Difference of one feature between archived and served traces."""

    archived: float | None
    """Median; of ``parsed`` the share, of ``answer`` the share of the label that changed most."""
    served: float | None
    size: float
    """Numbers: probability that a served trace has more than an archived one, + half of ties (0.5:
    no difference). Shares: total variation distance (0: none, 1: nothing in common)."""
    explanation: str


def effect_of(
    feature: str, archived: TraceColumns, served: TraceColumns, label_names: Sequence[str]
) -> Effect:
    """Effect of a feature of ``TraceColumns`` between archived and (some) served traces."""
    if feature == "parsed":
        return _parsed(archived, served)
    if feature == "answer":
        return _answers(archived, served, label_names)
    before, after = (_known(getattr(traces, feature)) for traces in (archived, served))
    if not len(before) or not len(after):
        return Effect(archived=None, served=None, size=0.5, explanation=f"{feature} is not known")
    size = _above(before, after)
    more, less, words = _WORDS[feature]
    text = words.format(more if size >= 0.5 else less, float(np.median(after)))
    return Effect(
        archived=float(np.median(before)),
        served=float(np.median(after)),
        size=size,
        explanation=f"{text} in the last {len(after)} served, {np.median(before):.3g} archived",
    )


def _parsed(archived: TraceColumns, served: TraceColumns) -> Effect:
    before, after = float(archived.parsed.mean()), float(served.parsed.mean())
    return Effect(
        archived=before,
        served=after,
        size=abs(after - before),
        explanation=f"{'fewer' if after < before else 'more'} traces can be parsed: "
        f"{100 * after:.0f}% of the last {len(served)} served, {100 * before:.0f}% archived",
    )


def _answers(archived: TraceColumns, served: TraceColumns, label_names: Sequence[str]) -> Effect:
    before, after = (_shares(traces, len(label_names)) for traces in (archived, served))
    most = int(np.abs(after - before).argmax())
    return Effect(
        archived=float(before[most]),
        served=float(after[most]),
        size=float(np.abs(after - before).sum() / 2),
        explanation=f"the mix of labels is another: {label_names[most]} is answered by "
        f"{100 * after[most]:.0f}% of the last {len(served)} served, "
        f"{100 * before[most]:.0f}% archived",
    )


def _shares(traces: TraceColumns, num_labels: int) -> NDArray[np.float64]:
    counts = np.bincount(traces.answer[traces.answer >= 0], minlength=num_labels)
    return np.asarray(counts / max(counts.sum(), 1), dtype=np.float64)


def _above(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """P(after > before) + P(equal) / 2: the Mann-Whitney statistic as a share."""
    ordered = np.sort(before)
    below = np.searchsorted(ordered, after, side="left")
    up_to = np.searchsorted(ordered, after, side="right")
    return float((below + up_to).mean() / 2 / len(ordered))


def _known(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(values[~np.isnan(values)], dtype=np.float32)
