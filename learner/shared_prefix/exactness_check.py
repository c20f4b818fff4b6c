"""Exactness check of the shared-prefix layout on this machine, with the first batch of a run.

    a small group -> logprobs behind one prompt, and with the prompt repeated -> LayoutCheck

Kernels and models change under us; a mask that is wrong trains on without an error. Logprobs show
it before the first update.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from learner.shared_prefix.rows import Row, RowLogprobs, one_row_per_response

Scorer = Callable[[Sequence[Row]], RowLogprobs]

_LIMITS = {"float32": 1e-4, "bfloat16": 5e-2}
"""Of the norm of the difference over the norm. Rounding alone gives 6e-8 and 5e-4 on tiny untrained
models of all families, and more on deep trained ones in bfloat16, for which there is room. What was
tried as a fault gave on the same models 1e-2 (positions off by 3), 2e-2 (responses that see each
other) and 4e-2 (a prompt that is not seen): found in float32; in bfloat16 only where a trained
model makes more of it."""

_MOST = 4  # responses of the group that is tried

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LayoutCheck:
    """Result of the check on the first batch."""

    gap: float
    """Norm of the difference of logprobs over their norm: the largest of all ranks."""
    limit: float

    @property
    def holds(self) -> bool:
        """Whether shared prefix may be used."""
        return self.gap <= self.limit


def check_layouts(
    rows: Sequence[Row], score: Scorer, dtype: str, largest: Callable[[float], float]
) -> LayoutCheck:
    """Compare both layouts on a small group. All ranks call; each tries a group of its own.

    ``score`` gives logprobs per row and response, of rows as they are laid out; ``largest`` is a
    number's maximum over ranks, so that all of them decide alike.
    """
    few = _small_group(rows)
    together = [value for response in score([few])[0] for value in response]
    repeated = [
        value for row in score(one_row_per_response(few)) for response in row for value in response
    ]
    gap = float(np.linalg.norm(np.subtract(together, repeated)) / np.linalg.norm(repeated))
    check = LayoutCheck(largest(gap if math.isfinite(gap) else math.inf), _LIMITS[dtype])
    if not check.holds:
        log.warning(
            "shared prefix is not exact here: logprobs differ by %.2e of their norm from those "
            "with the prompt repeated per response (limit %.0e in %s); going on with repeated "
            "prompts, which is exact and slower. Report it with `deepintuit bug-report`, and set "
            "learner.shared_prefix = false to silence this",
            *(check.gap, check.limit, dtype),
        )
    return check


def _small_group(rows: Sequence[Row]) -> Row:
    """The shortest row of several responses, cut to a few; any row if none has several."""
    several = [row for row in rows if len(row.responses) > 1] or rows
    row = min(several, key=lambda row: row.num_tokens)
    return replace(row, responses=row.responses[:_MOST])
