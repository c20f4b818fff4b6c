"""Builders for a completion and for what stands around it."""

from collections.abc import Callable
from typing import Any

import pytest

from reward.context import RewardContext
from wire.labels import Label, LabelSet


def _context(*names: str, **changed: Any) -> RewardContext:
    values: dict[str, Any] = {
        "labels": LabelSet(labels=tuple(Label(name=name) for name in names)),
        "extra": {},
        "texts": ("",),
        "index": 0,
        "num_tokens": 10,
        "is_truncated": False,
        "max_response_length": 100,
        "video": "clips/7.mp4",
    }
    return RewardContext(**(values | changed))


@pytest.fixture(scope="session")
def make_context() -> Callable[..., RewardContext]:
    """``make_context("fall", "walk", num_tokens=7)``: a valid context with some things changed."""
    return _context
