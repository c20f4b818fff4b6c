"""Accuracy reward with synonyms: is the answer the label, in one of its accepted spellings.

r = 1 if the first answer block is the label or one of the spellings given for it, ignoring case and
the width of space; else 0. The exact-label reward (deepintuit.py) with a dictionary.
"""

from collections.abc import Mapping

from pydantic import Field, field_validator

from reward.builtins.params import Params, refuse_unknown_labels
from reward.context import RewardContext
from wire.errors import ConfigError
from wire.labels import LabelSet, first_block, plain


class SynonymsParams(Params):
    """Accepted spellings.

    Example:
        SynonymsParams(spellings={"fall": ("falls", "falling down")})
    """

    spellings: Mapping[str, tuple[str, ...]] = Field(min_length=1)
    """For each label that has some: what may stand in the answer block in its place. Case, outer
    space and the width of inner space do not matter. Labels themselves are always accepted."""

    @field_validator("spellings")
    @classmethod
    def _each_means_one_label(
        cls, spellings: Mapping[str, tuple[str, ...]]
    ) -> Mapping[str, tuple[str, ...]]:
        meaning: dict[str, str] = {}
        for label, accepted in spellings.items():
            for spelling in accepted:
                key = plain(spelling)
                if not key:
                    raise ValueError(f"an empty spelling for {label!r}; take it out")
                if meaning.setdefault(key, label) != label:
                    raise ValueError(
                        f"{spelling!r} is a spelling of both {meaning[key]!r} and {label!r}; "
                        "keep one"
                    )
        return spellings

    def refuse_unfit(self, labels: LabelSet, max_response_length: int | None) -> None:
        """Raise ConfigError for an unknown label, and for a label as a spelling of another."""
        refuse_unknown_labels("spellings", self.spellings, labels)
        for label, accepted in self.spellings.items():
            for spelling in accepted:
                other = labels.find(spelling)
                if other is not None and other != labels.find(label):
                    raise ConfigError(
                        f"spellings of {label!r} hold {spelling!r}, which is a label; take it out"
                    )


def synonyms(
    completion: str, label: str, context: RewardContext, *, spellings: Mapping[str, tuple[str, ...]]
) -> float:
    """1 if the first answer block is ``label`` or one of its accepted spellings; else 0."""
    answer = first_block(completion, "answer")
    if answer is None:
        return 0.0
    wanted = context.labels.find(label) or label
    accepted = [s for name, s in spellings.items() if context.labels.find(name) == wanted]
    known = {plain(wanted), *(plain(spelling) for group in accepted for spelling in group)}
    return float(plain(answer) in known)
