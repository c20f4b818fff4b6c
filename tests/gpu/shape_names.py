"""Stand-in for jaxtyping, which only names shapes in signatures and computes nothing.

The product needs it, and a machine with nothing but PyTorch and transformers lacks it; there
``Float[Tensor, "N H"]`` is Tensor. Where jaxtyping is installed it is left alone.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Named:
    def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
        return item[0]


def stand_in() -> None:
    """Put the stand-in in jaxtyping's place, if it is not installed."""
    if "jaxtyping" not in sys.modules and importlib.util.find_spec("jaxtyping") is None:
        module = ModuleType("jaxtyping")
        for kind in ("Float", "Int", "Bool"):
            setattr(module, kind, type(kind, (_Named,), {}))
        sys.modules["jaxtyping"] = module
