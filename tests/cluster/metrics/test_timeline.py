from typing import Any

import pytest

from cluster.metrics.timeline import span


class Spans:
    """Keeps spans."""

    def __init__(self) -> None:
        self.added: list[tuple[str, str, float, dict[str, Any]]] = []

    def add(self, track: str, name: str, start: float, end: float, **args: Any) -> None:
        self.added.append((track, name, end - start, args))


def test_what_raises_is_a_span_too():
    spans = Spans()
    with pytest.raises(KeyError), span(spans, "rank-0", "update_actor", step=3):
        raise KeyError
    ((track, name, seconds, args),) = spans.added
    assert (track, name, args) == ("rank-0", "update_actor", {"step": 3})
    assert seconds >= 0
