"""Events of a run in words."""

from cluster.metrics.events import Event


def describe_event(event: Event) -> str:
    """One event in one line; of a kind that is not known, its fields as they are."""
    fields = event.fields
    match event.kind:
        case "worker_joined":
            return f"{event.subject} joined ({fields.get('cause')})"
        case "worker_state":
            before = f", was {fields['before']}" if fields.get("before") else ""
            return f"{event.subject} is {fields.get('state')} ({fields.get('cause')}){before}"
        case "worker_left":
            return f"{event.subject} left ({fields.get('cause')})"
        case "scaled":
            return f"workers wanted: {fields.get('workers')}"
        case "request_moved":
            worker = fields.get("worker")
            return f"{event.subject} moved from {worker}: {fields.get('why', '')}"
        case "group_dropped":
            return f"{event.subject} is dropped ({fields.get('cause')})"
        case "learner_died":
            return f"{event.subject} died ({fields.get('cause')})"
        case "learner_healed":
            return f"the learner is healed, after {_seconds(fields.get('seconds'))}"
        case _:
            rest = ", ".join(f"{name} {value}" for name, value in fields.items())
            return f"{event.kind.replace('_', ' ')}: {event.subject}{f' ({rest})' if rest else ''}"


def _seconds(value: object) -> str:
    return f"{value:.1f} s" if isinstance(value, int | float) else "some time"
