"""Betting against uniform p-values: capital that stays small unless they are not uniform.

    p-values in [0, 1], one after another -> Bettor.bet -> log capital

Capital starts at 1 and is a martingale if the p-values are independent and uniform, so that the
probability that it *ever* reaches c is at most 1 / c (Ville 1939): a test that may be looked at
after every observation. Experts each bet a small or a large stake that p falls into one dyadic
interval (halves to eighths, and down to a 128th at the ends, where what is rare lies); one bets on
nothing. Their capital is shared by fixed share (Herbster & Warmuth 1998; the "jumper" of Vovk,
Petej & Nouretdinov 2021): at each step a part ``rate`` is dealt anew, so that a change after many
quiet observations is still noticed. Capital is the mean over three rates.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_RATES = np.array([1e-2, 1e-3, 1e-4])
_STAKES = (0.1, 0.3, 0.9)
_INTERVALS = [(part / parts, (part + 1) / parts) for parts in (2, 4, 8) for part in range(parts)]
_INTERVALS += [
    end for parts in (16, 32, 64, 128) for end in ((0.0, 1 / parts), (1 - 1 / parts, 1.0))
]
_QUIET = 0.5  # of the capital dealt, the share of the expert that bets on nothing

# [E] of each expert but the quiet one: interval [low, high), its stake
_LOW, _HIGH = np.repeat(np.array(_INTERVALS), len(_STAKES), axis=0).T
_STAKE = np.tile(_STAKES, len(_INTERVALS))
_DEAL = np.concatenate([[_QUIET], np.full(len(_LOW), (1 - _QUIET) / len(_LOW))])


class Bettor:
    """Capital of experts that bet on where the next p-value falls."""

    def __init__(self) -> None:
        self._weights = np.tile(_DEAL, (len(_RATES), 1))  # [rates, experts], rows sum to 1
        self._log_capital = np.zeros(len(_RATES))

    def bet(self, p: float) -> None:
        """Take one p-value."""
        weights = (1 - _RATES[:, None]) * self._weights + _RATES[:, None] * _DEAL
        inside = (p >= _LOW) & ((p < _HIGH) | ((_HIGH == 1) & (p == 1)))
        odds = (1 - _STAKE) + _STAKE * inside / (_HIGH - _LOW)
        won = weights * np.concatenate([[1.0], odds])
        total = won.sum(axis=1)
        self._log_capital = self._log_capital + np.log(total)
        self._weights = won / total[:, None]

    @property
    def log_capital(self) -> float:
        """Natural logarithm of the capital: an e-value after any number of bets."""
        best = float(self._log_capital.max())
        return best + float(np.log(np.exp(self._log_capital - best).mean()))

    def state(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"weights": self._weights.tolist(), "log_capital": self._log_capital.tolist()}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Bettor":
        """The inverse of ``state``. Raises ValueError for a state of other experts."""
        bettor = cls()
        weights, capital = np.array(state["weights"], float), np.array(state["log_capital"], float)
        if (weights.shape, capital.shape) != (bettor._weights.shape, bettor._log_capital.shape):
            raise ValueError(f"weights of shape {weights.shape}, expected {bettor._weights.shape}")
        bettor._weights, bettor._log_capital = weights, capital
        return bettor
