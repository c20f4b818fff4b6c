"""Watchdog of an engine's processes: ends them when the actor that owns them is gone.

    actor (owner) -> engine core -> workers        one worker: it may be the engine core itself

vLLM's own processes notice the death of a parent, not of the parent's parent; Ray ends an actor's
process alone.
"""

import os
import signal
import threading
import time
from pathlib import Path


def end_with_owner(owner: int) -> None:
    """End this worker and its engine core within about a second of the owner's death."""
    core = os.getppid()

    def watch() -> None:
        while os.getppid() == core and (core == owner or _is_child(core, owner)):
            time.sleep(1.0)
        if os.getppid() == core != owner:
            os.kill(core, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-owner", daemon=True).start()


def _is_child(process: int, parent: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return int(stat.rpartition(")")[2].split()[1]) == parent  # after the name: state, parent
