"""A check that goes wrong in the way it is asked to, for the tests of this folder."""

import os
import signal
import time
from collections.abc import Iterator

from tests.benchmarks.figures import Figure
from tests.gpu.setting import Setting


def figures(setting: Setting, how: str) -> Iterator[Figure]:
    """One good row, then the fault."""
    yield Figure(f"{how}/before", 1.0, "", 0.5, "above")
    if how == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "hangs":
        time.sleep(600)
    elif how == "raises":
        raise RuntimeError("the card fell off the bus")
    elif how == "misses_a_module":
        import no_such_module  # noqa: F401
    elif how == "misses_its_limit":
        yield Figure(f"{how}/after", 1.0, "", 2.0, "above")
