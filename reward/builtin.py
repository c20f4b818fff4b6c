"""The built-in rewards by name: the words that ``function`` of a reward term may be.

    f(completion: str, label: str, context: RewardContext, **params) -> float | None

Keyword parameters of a function are what ``params`` of its term may set. ``None``: the reward does
not apply to this trace. One that waits for somebody (a judge) is ``async``; the others run in the
driver's own thread, so they are quick whatever a policy writes.
"""

from collections.abc import Awaitable, Callable, Mapping

from reward.builtins.deepintuit import accuracy_reward, format_reward
from reward.context import RewardContext

Builtin = Callable[..., float | Awaitable[float | None] | None]


def _accuracy(completion: str, label: str, context: RewardContext) -> float:
    return accuracy_reward(completion, label, context.labels)


def _format(completion: str, _label: str, _context: RewardContext) -> float:
    return format_reward(completion)


BUILTINS: Mapping[str, Builtin] = {
    "accuracy": _accuracy,
    "format": _format,
}
