"""Temporal-contrast reward (T-GRPO): a bonus for groups that need the order of the frames.

temporal_contrast: with p and p~ the shares of right answers on ordered and on shuffled frames,
    r = alpha if the answer is right and p >= mu p~; else 0
Video-R1 (arXiv 2503.21776), equation 1, and its released trainer, which has alpha = 0.3 and
mu = 0.8 and gives the bonus to right answers only.

p~ is the sample's column ``shuffled_accuracy``. Training puts it there, after half as many
traces on the shuffled clip (cluster/group_writer.py; Video-R1's trainer halves, too), unless the
manifest brings it from elsewhere.
"""

from collections.abc import Sequence

from pydantic import Field

from reward.builtins.deepintuit import accuracy_reward
from reward.builtins.params import Params
from reward.context import RewardContext
from wire.errors import DataError
from wire.labels import LabelSet

SHUFFLED_ACCURACY = "shuffled_accuracy"


class TemporalContrastParams(Params):
    """Parameters of ``temporal_contrast``: when the bonus is given, and how much it is.

    Example:
        TemporalContrastParams(mu=1.0)
    """

    mu: float = Field(default=0.8, gt=0, allow_inf_nan=False)
    """Ordered frames must do at least this many times as well as shuffled ones."""
    alpha: float = Field(default=0.3, ge=0, allow_inf_nan=False)
    """The bonus."""


def temporal_contrast(
    completion: str, label: str, context: RewardContext, *, mu: float, alpha: float
) -> float | None:
    """``alpha`` for a right answer of a group that does well enough on ordered frames; else 0.

    None if ``context.extra`` has no ``shuffled_accuracy``. Raises DataError if that is no share.
    """
    shuffled = context.extra.get(SHUFFLED_ACCURACY)
    if shuffled is None:
        return None
    if (
        isinstance(shuffled, bool)
        or not isinstance(shuffled, int | float)
        or not 0 <= shuffled <= 1
    ):
        raise DataError(f"{SHUFFLED_ACCURACY} is {shuffled!r}; expected a share between 0 and 1")
    if accuracy_reward(completion, label, context.labels) == 0.0:
        return 0.0
    ordered = share_right(context.texts, label, context.labels)
    return temporal_bonus(ordered, float(shuffled), mu, alpha)


def share_right(texts: Sequence[str], label: str, labels: LabelSet) -> float:
    """Share of a group's completions that answer with the label."""
    return sum(accuracy_reward(text, label, labels) for text in texts) / len(texts)


def temporal_bonus(
    ordered_accuracy: float, shuffled_accuracy: float, mu: float, alpha: float
) -> float:
    """Bonus of a right answer: ``alpha`` if the order helped or did no harm; else 0."""
    return alpha if ordered_accuracy >= mu * shuffled_accuracy else 0.0
