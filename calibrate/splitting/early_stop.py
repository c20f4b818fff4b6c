"""Early stop on an exponential moving average, which keeps the best state that it has seen."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

State = TypeVar("State")


@dataclass(slots=True, kw_only=True)
class EmaStop(Generic[State]):
    """Watches a value that should rise: its average has to gain ``min_gain`` over the best within
    ``patience`` epochs. A loss is watched as its negative."""

    decay: float
    patience: int
    min_gain: float
    best: State | None = None
    """State of the epoch with the best average."""
    best_epoch: int = 0
    _average: float | None = field(default=None, init=False)
    _best_average: float = field(default=float("-inf"), init=False)
    _epoch: int = field(default=0, init=False)

    def ends(self, value: float, state: Callable[[], State]) -> bool:
        """Take an epoch's value; ``state`` copies what would be restored. True: stop."""
        self._epoch += 1
        last = value if self._average is None else self._average
        self._average = self.decay * last + (1 - self.decay) * value
        if self._average > self._best_average + self.min_gain:
            self._best_average, self.best, self.best_epoch = self._average, state(), self._epoch
        return self._epoch - self.best_epoch >= self.patience
