"""Events of helper processes that were lost: of reward functions, and decoders, by their figures.

A process like these is replaced where it runs; what comes to the driver is a count per step.
"""

import re
from collections.abc import Mapping

from cluster.metrics.events import Events

_REWARD = re.compile(r"reward/(.+)/num_lost")
_DECODERS = "video/decoders_lost"


def note_lost_processes(events: Events, figures: Mapping[str, float], step: int) -> None:
    """Note an event for each reward function and for the decoders that lost processes in a step."""
    for name, value in figures.items():
        if value and (match := _REWARD.fullmatch(name)):
            events.note("reward_worker_restarted", match[1], count=int(value), step=step)
        elif value and name == _DECODERS:
            events.note("decode_helper_restarted", "decoders", count=int(value), step=step)
