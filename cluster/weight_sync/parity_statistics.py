"""Statistics of the parity probe in bfloat16, where engine and learner never agree to the last bit.

    noise of both sides, measured with themselves -> limit of the gap between them
    the learner's own earlier answers             -> how much of its change an engine lacks

Rounding differs between the two for good, and by about as much as each differs from itself when
other tokens are computed beside the probe's. So that is measured at the start, and a gap of many
times as much is a fault: a mask, a position, a tensor in another's place.

Weights of some updates ago make a smaller gap. What gives them away is its direction: it is what
the learner has changed since. With l the learner's logprobs now, l' those of an earlier version, e
an engine's, and g0 the gap e - l of its first probe,

    lack = <g0 - (e - l), l - l'> / <l - l', l - l'>

is near 0 for an engine with the weights of now, near 1 for one with the earlier ones; the middle is
the limit. It is only looked at where the change stands out from the noise so far that the middle is
6 standard deviations from either side; below that, digests (cluster/weight_sync/digest_check.py)
tell weights apart.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_HISTORY = 64  # earlier versions that an engine may be found to hold
_DEVIATIONS = 6.0
_LEAST_NOISE = 2e-3  # nats: logits below 1, rounded to 8 bits; equal kernels would show none


@dataclass
class ProbeStatistics:
    """Statistics of all engines' answers to the probe, update after update."""

    noise_factor: float
    """A gap of more than so many times the noise is a fault."""
    noise: float = 0.0
    """Root mean square of what one side's logprobs differ by, computed in two ways; nats."""
    learner: deque[Floats] = field(default_factory=lambda: deque(maxlen=_HISTORY + 1))
    """The learner's answers, oldest first; the last is that of now."""
    first_gaps: dict[str, Floats] = field(default_factory=dict)
    """The gap of each engine's first probe."""

    def measure(self, one: Sequence[float], other: Sequence[float]) -> None:
        """Take the noise of one side from its answers computed in two ways."""
        self.noise = max(self.noise, _LEAST_NOISE, rms(np.subtract(one, other)))

    def learner_answers(self, logprobs: Sequence[float]) -> None:
        """Add what the learner answers from now on."""
        self.learner.append(np.asarray(logprobs, np.float64))

    def fault(
        self, name: str, logprobs: Sequence[float], expected: Sequence[float] | None = None
    ) -> str | None:
        """Why an engine with this answer must not serve; None: it may. ``expected``: what the
        learner answered with the weights that the engine loaded, where it did so by itself and an
        update has begun meanwhile; None: its newest answer."""
        answer = np.asarray(logprobs, np.float64)
        known = list(self.learner) if expected is None else self._known(expected)
        gap = answer - known[-1]
        first = self.first_gaps.get(name, gap)
        if fault := self._stale(answer, first, known) or self._too_far(gap):
            return fault
        self.first_gaps[name] = first
        return None

    def _known(self, expected: Sequence[float]) -> list[Floats]:
        """The learner's answers up to the expected one."""
        now, known = np.asarray(expected, np.float64), list(self.learner)
        while known and not np.array_equal(known[-1], now, equal_nan=True):
            known.pop()
        return known or [now]

    def _too_far(self, gap: Floats) -> str | None:
        limit = self.noise_factor * self.noise
        if rms(gap) <= limit:  # not so for NaN
            return None
        return (
            f"logprobs differ by {rms(gap):.3g} nats (root mean square) from the learner's; "
            f"{limit:.2g} is allowed, {self.noise_factor:g} times the noise of one side "
            f"({self.noise:.2g}): the engine does not compute what the learner does. If it is "
            "rounding alone, raise parity.noise_factor"
        )

    def _stale(self, answer: Floats, first_gap: Floats, known: Sequence[Floats]) -> str | None:
        *earlier, now = known
        changes = [change for learner in earlier if self.tells(change := now - learner)]
        lack = max((_share(first_gap - (answer - now), c) for c in changes), default=0.0)
        if not lack > 0.5:
            return None
        distances = [rms(answer - first_gap - learner) for learner in earlier]
        ago = len(earlier) - int(np.argmin(distances))
        return (
            f"the engine lacks {lack:.0%} of what the learner's logprobs changed: it computes with "
            f"weights of about {ago} updates ago"
        )

    def tells(self, change: Floats) -> bool:
        """Whether a change of the learner's stands out from the noise. The noise of its own two
        answers moves the share of a sound engine up, and of a stale one down, by (noise / change)
        squared; noise across the change, of four answers, spreads both."""
        if (size := rms(change)) == 0:
            return False
        noise = self.noise / size
        spread = 2 * noise / np.sqrt(len(change))
        return bool(0.5 - noise**2 > _DEVIATIONS * spread)


def rms(values: npt.ArrayLike) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def _share(part: Floats, change: Floats) -> float:
    return float(part @ change / (change @ change))
