from collections.abc import Callable

import numpy as np
import pytest

from calibrate.shift.features import TraceFeatures

NAMES = ("relapse", "undo", "varied")
Draw = Callable[..., list[TraceFeatures]]


def draw_traces(
    seed: int,
    num: int,
    *,
    mix: tuple[float, ...] = (0.5, 0.3, 0.2),
    length: float = 100.0,
    unparsed: float = 0.02,
    logprob: float = -0.4,
    sure: float = 6.0,
) -> list[TraceFeatures]:
    """Traces of one policy on clips of one mix; length and logprob go with the label."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, p=mix, size=num)
    parsed = rng.random(num) > unparsed
    return [
        TraceFeatures(
            num_tokens=max(1, int(rng.normal(length + 20 * label, 15))),
            mean_logprob=float(rng.normal(logprob - 0.05 * label, 0.1)),
            parsed=bool(is_parsed),
            answer=NAMES[label] if is_parsed else None,
            confidence=float(rng.beta(sure, 2)),
        )
        for label, is_parsed in zip(labels, parsed, strict=True)
    ]


@pytest.fixture
def draw() -> Draw:
    return draw_traces


@pytest.fixture
def label_names() -> tuple[str, ...]:
    return NAMES
