"""Method of an actor that is its worker's method: same signature and docstring, no body of its own.

Ray makes an actor of a class and looks at its methods, so they have to stand in the class; and the
worker is built inside the actor's process, so the worker's class cannot be the actor's.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
W = TypeVar("W")
W_co = TypeVar("W_co", covariant=True)


class HasWorker(Protocol[W_co]):
    """Actor around a worker."""

    @property
    def worker(self) -> W_co:
        """The worker, once it is built."""


def worker_method(
    method: Callable[Concatenate[W, P], R],
) -> Callable[Concatenate[HasWorker[W], P], R]:
    """Method of an actor that calls the worker's ``method``.

    Example:
        class LearnerActor:
            train_step = worker_method(LearnerWorker.train_step)
    """
    if inspect.iscoroutinefunction(method):  # an actor with such methods runs in an event loop

        @functools.wraps(method)
        async def call_async(actor: HasWorker[W], /, *args: P.args, **kwargs: P.kwargs) -> Any:
            return await method(actor.worker, *args, **kwargs)

        return call_async  # type: ignore[return-value]

    @functools.wraps(method)
    def call(actor: HasWorker[W], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(actor.worker, *args, **kwargs)

    return call
