"""Spans that events begin and end: a worker that does not serve, a heal of the learner.

EventLog -> EventSpans -> Timeline
"""

from cluster.metrics.events import Event
from cluster.metrics.timeline import DRIVER, OpenSpan, Timeline

_SERVES = "healthy"


class EventSpans:
    """Adds the spans of events to a timeline; :meth:`observe` takes every event."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._open: dict[str, OpenSpan] = {}

    def observe(self, event: Event) -> None:
        """Take an event of now."""
        match event.kind:
            case "worker_joined" | "worker_state":
                self._end(event.subject)
                if (state := str(event.fields.get("state"))) != _SERVES:
                    cause = event.fields.get("cause")
                    self._begin(event.subject, event.subject, state, cause=str(cause))
            case "worker_left":
                self._end(event.subject)
            case "learner_died" if DRIVER not in self._open:
                self._begin(DRIVER, DRIVER, "heal", cause=str(event.fields.get("cause")))
            case "learner_healed":
                self._end(DRIVER)

    def _begin(self, key: str, track: str, name: str, **args: str) -> None:
        self._open[key] = self._timeline.begin(track, name, **args)

    def _end(self, key: str) -> None:
        if (span := self._open.pop(key, None)) is not None:
            self._timeline.end(span)
