from collections.abc import Collection, Mapping
from typing import Any

import pytest

from cluster.metrics.timeline import NoTimeline, OpenSpan, span


class Spans:
    """Keeps spans."""

    def __init__(self) -> None:
        self.ended: list[OpenSpan] = []

    def begin(self, track: str, name: str, **args: Any) -> OpenSpan:
        return OpenSpan(track=track, name=name, start=0.0, args=args)

    def end(self, span: OpenSpan) -> None:
        self.ended.append(span)

    def add(self, track: str, name: str, start: float, end: float, **args: Any) -> None:
        raise AssertionError

    def begin_steps(self) -> None:
        raise AssertionError

    def end_step(self, stage: str, step: int, workers: Collection[str]) -> Mapping[str, float]:
        raise AssertionError


def test_what_raises_is_a_span_too():
    spans = Spans()
    with pytest.raises(KeyError), span(spans, "rank-0", "update_actor", step=3):
        raise KeyError
    (ended,) = spans.ended
    assert (ended.track, ended.name, ended.args) == ("rank-0", "update_actor", {"step": 3})


def test_a_span_may_say_more_once_it_has_begun():
    spans = Spans()
    with span(spans, "rollout-0", "answer") as opened:
        opened.args["tokens"] = 12
    assert spans.ended[0].args == {"tokens": 12}


def test_without_a_timeline_a_step_has_no_metrics():
    timeline = NoTimeline()
    with span(timeline, "rollout-0", "answer"):
        pass
    assert timeline.end_step("grpo", 1, {"rollout-0"}) == {}
