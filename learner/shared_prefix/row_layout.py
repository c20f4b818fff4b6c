"""Layout of a run's rows: responses behind one prompt, or the prompt repeated for each of them.

config + exactness check of the run's first batch -> rows as they are computed
"""

from collections.abc import Sequence

import torch.distributed as dist

from learner.config import LearnerConfig
from learner.ranks.collectives import reduce
from learner.shared_prefix.exactness_check import LayoutCheck, Scorer, check_layouts
from learner.shared_prefix.rows import Row, one_row_per_response, split_rows


class RowLayout:
    """Layout of the rows of one rank; the same on all ranks."""

    def __init__(self, config: LearnerConfig) -> None:
        self._config = config
        self._check: LayoutCheck | None = None

    @property
    def shares_prefix(self) -> bool:
        """Whether a group's responses stand behind one prompt."""
        return self._config.shared_prefix and (self._check is None or self._check.holds)

    def check(self, rows: Sequence[Row], score: Scorer) -> None:
        """Check the shared-prefix layout with the first batch of a run; the result holds from then
        on. All ranks call. ``score``: logprobs of rows as they are laid out."""
        if self._config.shared_prefix and self._check is None:
            self._check = check_layouts(rows, score, self._config.dtype, _max_over_ranks)

    def laid_out(self, rows: Sequence[Row]) -> list[Row]:
        """Rows in the layout of the run, within the token limit where they can be."""
        if not self.shares_prefix:
            rows = [one for row in rows for one in one_row_per_response(row)]
        return split_rows(rows, self._config.max_tokens_per_batch)

    def figures(self) -> dict[str, float]:
        """Metrics ``shared_prefix/...``."""
        gap = {"shared_prefix/self_check": self._check.gap} if self._check else {}
        return {"shared_prefix/used": float(self.shares_prefix), **gap}


def _max_over_ranks(gap: float) -> float:
    return reduce({"gap": gap}, dist.ReduceOp.MAX)["gap"]
