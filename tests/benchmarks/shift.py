"""What a monitor of shift notices and how soon, and how often it is wrong.

    python -m tests.benchmarks.shift [--streams 20] [--served 10000] [--json FILE]

Traces of one policy on clips of three labels (tests/calibrate/shift/conftest.py), 300 archived.
Each shift begins at once, and after 2,000 quiet traces; median of the traces until the alarm. The
level is the default, 1%.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from calibrate.shift.features import TraceFeatures, TraceReference
from calibrate.shift.monitor import ShiftMonitor
from tests.benchmarks.figures import Figure, report
from tests.calibrate.shift.conftest import NAMES, draw_traces

ARCHIVED = 300
SHIFTS: dict[str, dict[str, Any]] = {
    "tokens less probable by 0.1 nats (one deviation)": {"logprob": -0.5},
    "half of the answers unparsed": {"unparsed": 0.5},
    "a tenth of the answers unparsed, not 2%": {"unparsed": 0.1},
    "traces a tenth longer": {"length": 110},
    "traces a third longer": {"length": 133},
    "less confidence (mean .6, not .75)": {"sure": 3.0},
    "mix of labels 20/30/50%, not 50/30/20%": {"mix": (0.2, 0.3, 0.5)},
}
LONGEST = 2_000


def monitor(seed: int) -> ShiftMonitor:
    """A monitor with a reference of its own."""
    return ShiftMonitor(TraceReference.of(draw_traces(seed, ARCHIVED), NAMES), seed=seed)


def delay(watching: ShiftMonitor, shifted: list[TraceFeatures]) -> int:
    """Shifted traces until the alarm; the longest if there is none."""
    for number, trace in enumerate(shifted, start=1):
        if watching.observe(trace) is not None:
            return number
    return LONGEST


def figures(streams: int, served: int) -> Iterator[Figure]:
    """All rows."""
    start, alarms = time.process_time(), 0
    for seed in range(streams):
        alarms += monitor(seed).observe_all(draw_traces(seed + 10_000, served)) is not None
    taken = time.process_time() - start
    yield Figure(f"false alarms of {streams} streams of {served:,} traces", alarms, "streams")
    yield Figure("traces observed", streams * served / taken, "1/s")
    for name, shift in SHIFTS.items():
        for quiet in (0, 2_000):
            delays = []
            for seed in range(max(5, streams // 4)):
                watching = monitor(seed)
                watching.observe_all(draw_traces(seed + 20_000, quiet))
                delays.append(delay(watching, draw_traces(seed + 30_000, LONGEST, **shift)))
            after = f", after {quiet:,} quiet traces" if quiet else ""
            yield Figure(f"{name}{after}", median(delays), "traces")


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--served", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="where the rows are written")
    given = parser.parse_args()
    return report(figures(given.streams, given.served), given.json)


if __name__ == "__main__":
    raise SystemExit(main())
