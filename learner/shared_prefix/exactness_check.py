"""Exactness check of the shared-prefix layout on this machine, with the first batch of a run.

    a small group -> logprobs behind one prompt, and with the prompt repeated
    the batch     -> attention, positions and model code in float32 (float32_check.py)
                  -> LayoutCheck

Kernels and models change under us; a mask that is wrong trains on without an error. Logprobs of the
model itself show it before the first update in float32; in bfloat16 they show what is gross, and
the float32 check the rest.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from learner.shared_prefix import float32_check
from learner.shared_prefix.rows import Row, RowLogprobs, one_row_per_response, small_group
from wire.errors import ParityError

Scorer = Callable[[Sequence[Row]], RowLogprobs]

_LIMITS = {"float32": 1e-4, "bfloat16": 5e-2}
"""Of the norm of the difference over the norm. Rounding alone gives 6e-8 and 5e-4 on tiny untrained
models of all families, and more on deep trained ones in bfloat16, for which there is room. What was
tried as a fault gave on the same models 1e-2 (positions off by 3), 2e-2 (responses that see each
other) and 4e-2 (a prompt that is not seen): in bfloat16 the float32 check finds them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LayoutCheck:
    """Result of the check on the first batch."""

    gap: float
    """Norm of the difference of logprobs over their norm: the largest of all ranks."""
    limit: float
    float32_gap: float
    """The largest difference of the float32 check, of all ranks."""

    @property
    def holds(self) -> bool:
        """Whether shared prefix may be used."""
        return self.gap <= self.limit and self.float32_gap <= float32_check.LIMIT


def check_layouts(
    rows: Sequence[Row],
    score: Scorer,
    float32_gap: Callable[[Sequence[Row]], float],
    dtype: str,
    largest: Callable[[float], float],
) -> LayoutCheck:
    """Compare both layouts on a small group. All ranks call; each tries a group of its own.

    ``score`` gives logprobs per row and response, of rows as they are laid out, ``float32_gap`` the
    largest difference of the float32 check; ``largest`` is a number's maximum over ranks, so that
    all of them decide alike. Raises ParityError, on all ranks, if repeated prompts are not computed
    right either.
    """
    few = small_group(rows)
    together = [value for response in score([few])[0] for value in response]
    repeated = [
        value for row in score(one_row_per_response(few)) for response in row for value in response
    ]
    gap = float(np.linalg.norm(np.subtract(together, repeated)) / np.linalg.norm(repeated))
    check = LayoutCheck(
        gap=largest(_or_infinite(gap)),
        limit=_LIMITS[dtype],
        float32_gap=largest(_or_infinite(float32_gap(rows))),
    )
    if not check.holds:
        apart = [one for row in rows for one in one_row_per_response(row)]
        require_exact(largest(_or_infinite(float32_gap(apart))))
        log.warning(
            "shared prefix is not exact here: logprobs differ by %.2e of their norm from those "
            "with the prompt repeated per response (limit %.0e in %s), and a token's attention or "
            "hidden state in float32 by %.2e of its norm (limit %.0e); going on with repeated "
            "prompts, which is exact and slower. Report it with `deepintuit bug-report`, and set "
            "learner.shared_prefix = false to silence this",
            *(check.gap, check.limit, dtype, check.float32_gap, float32_check.LIMIT),
        )
    return check


def require_exact(float32_gap: float) -> None:
    """Raise ParityError if rows with repeated prompts are not computed right: there is no other
    layout to go on with."""
    if float32_gap > float32_check.LIMIT:
        raise ParityError(
            f"attention is wrong on this machine: with prompts repeated per response, a token in "
            f"float32 differs by {float32_gap:.2e} of its norm from plain causal attention (limit "
            f"{float32_check.LIMIT:.0e}); training would go on from wrong gradients. Compare the "
            "versions of PyTorch and transformers with requirements/, and report it with "
            "`deepintuit bug-report`"
        )


def _or_infinite(gap: float) -> float:
    return gap if math.isfinite(gap) else math.inf
