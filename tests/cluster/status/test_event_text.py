import pytest

from cluster.metrics.events import Event
from cluster.status.event_text import describe_event


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            Event(
                kind="worker_state",
                subject="rollout-1",
                fields={"state": "dead", "before": "healthy", "cause": "engine_died"},
            ),
            "rollout-1 is dead (engine_died), was healthy",
        ),
        (
            Event(kind="learner_healed", subject="learner", fields={"seconds": 12.34}),
            "the learner is healed, after 12.3 s",
        ),
        (Event(kind="learner_healed", subject="learner"), "the learner is healed, after some time"),
        (
            Event(kind="a_new_kind", subject="grpo", fields={"file": "a.txt"}),
            "a new kind: grpo (file a.txt)",
        ),
    ],
)
def test_an_event_is_one_line_in_words(event: Event, expected: str):
    assert describe_event(event) == expected
