"""Description of a figure: name, unit, meaning, and the names that verl and TRL have for it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One name, or a family of names.

    Example:
        Metric(area="Reward", name="reward/<part>/mean", unit="reward", per="sequence",
               meaning="mean of one reward function, before weighting", trl="rewards/<part>/mean")
    """

    area: str
    name: str
    """``<word>`` stands for a name of the recipe or the code."""
    unit: str
    per: str
    """The figure is one per token, sequence, group, update, step, clip or run."""
    meaning: str
    verl: str | None = None
    """verl's name for it. Figures that share one are added up."""
    trl: str | None = None

    @property
    def pattern(self) -> re.Pattern[str]:
        """Regular expression that matches whole names."""
        parts = re.split(r"<\w+>", self.name)
        return re.compile("(.+)".join(map(re.escape, parts)))


def rows_of_area(area: str, *rows: tuple[str, ...]) -> Iterator[Metric]:
    """Rows of an area, each a tuple: name, unit, per, meaning, verl's name, TRL's name."""
    for name, unit, per, meaning, *others in rows:
        verl, trl = (*others, "", "")[:2]
        yield Metric(
            area=area,
            name=name,
            unit=unit,
            per=per,
            meaning=meaning,
            verl=verl or None,
            trl=trl or None,
        )
