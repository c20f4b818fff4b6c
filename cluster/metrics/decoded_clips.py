"""Clips decoded by decord and by PyAV, as metrics."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

_PREFIX = "decoded_by_"
_DECODERS = ("decord", "pyav")


class DecodedClips:
    """Counts of the clips that the rollout workers have decoded, by decoder."""

    def __init__(self, counts: Callable[[], Awaitable[Mapping[str, int]]]) -> None:
        """``counts``: of all workers since their start; others than decoders' are passed over."""
        self._counts = counts
        self._before: Counter[str] = Counter()

    async def new(self) -> dict[str, float]:
        """Metrics of the clips since the last call."""
        now = Counter(await self._counts())
        new, self._before = now - self._before, now
        figures = {f"video/{_PREFIX}{name}": float(new[f"{_PREFIX}{name}"]) for name in _DECODERS}
        return {**figures, "video/decoders_lost": float(new["decoders_lost"])}
