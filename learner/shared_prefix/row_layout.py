"""Layout of a run's rows: responses behind one prompt, or the prompt repeated for each of them.

config + exactness check of the run's first batch -> rows as they are computed
"""

import math
from collections.abc import Callable, Sequence

import torch.distributed as dist

from learner.config import LearnerConfig
from learner.ranks.collectives import reduce
from learner.shared_prefix.exactness_check import (
    LayoutCheck,
    Scorer,
    check_layouts,
    require_exact,
)
from learner.shared_prefix.rows import Row, one_row_per_response, split_rows


class RowLayout:
    """Layout of the rows of one rank; the same on all ranks."""

    def __init__(self, config: LearnerConfig) -> None:
        self._config = config
        self._check: LayoutCheck | None = None
        self._checked = False

    @property
    def shares_prefix(self) -> bool:
        """Whether a group's responses stand behind one prompt."""
        return self._config.shared_prefix and (self._check is None or self._check.holds)

    def check(
        self, rows: Sequence[Row], score: Scorer, float32_gap: Callable[[Sequence[Row]], float]
    ) -> None:
        """Check the layout with the first batch of a run; the result holds from then on. All ranks
        call. ``score``: logprobs of rows as they are laid out; ``float32_gap``: the largest
        difference of the float32 check. Raises ParityError if no layout is computed right."""
        if self._checked:
            return
        self._checked = True
        if self._config.shared_prefix:
            self._check = check_layouts(
                rows, score, float32_gap, self._config.dtype, _max_over_ranks
            )
        else:
            gap = float32_gap(self.laid_out(rows))
            require_exact(_max_over_ranks(gap if math.isfinite(gap) else math.inf))

    def laid_out(self, rows: Sequence[Row]) -> list[Row]:
        """Rows in the layout of the run, within the token limit where they can be."""
        if not self.shares_prefix:
            rows = [one for row in rows for one in one_row_per_response(row)]
        return split_rows(rows, self._config.max_tokens_per_batch)

    def figures(self) -> dict[str, float]:
        """Metrics ``shared_prefix/...``."""
        used = {"shared_prefix/used": float(self.shares_prefix)}
        if self._check is None:
            return used
        return {
            **used,
            "shared_prefix/self_check": self._check.gap,
            "shared_prefix/self_check_float32": self._check.float32_gap,
        }


def _max_over_ranks(gap: float) -> float:
    return reduce({"gap": gap}, dist.ReduceOp.MAX)["gap"]
