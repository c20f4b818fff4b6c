"""Cost of the timeline: CPU per span, and size and time of a step's file, at 1,000 workers.

    python -m tests.benchmarks.timeline_cost [--workers 1000] [--groups 8000]

A step of so many groups, each with the spans that a run gives it: a wait, an answer of its worker,
its reward, its archive. Fails above 20 us per span or 6 MB per file.
"""

import argparse
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

from cluster.metrics.step_timelines import MAX_SPANS, StepTimelines, timeline_files
from cluster.metrics.timeline import ANSWER, ARCHIVE, QUEUE, REWARD, span
from tests.benchmarks.figures import say

MOST_US, MOST_MB = 20.0, 6.0


def step(timeline: StepTimelines, workers: int, groups: int) -> float:
    """CPU seconds of the spans of one step."""
    begun = time.process_time()
    for number in range(groups):
        what = f"grpo/{number:08d}"
        with span(timeline, QUEUE, "wait for a worker"):
            pass
        with span(timeline, f"rollout-{number % workers}", ANSWER, what=what):
            pass
        with span(timeline, REWARD, "score", group=what):
            pass
        with span(timeline, ARCHIVE, "append", group=what):
            pass
    return time.process_time() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--groups", type=int, default=8000)
    options = parser.parse_args()
    names = [f"rollout-{number}" for number in range(options.workers)]
    with tempfile.TemporaryDirectory() as folder:
        timeline = StepTimelines(Path(folder), 0)
        spans_s = step(timeline, options.workers, options.groups)
        begun = time.process_time()
        timeline.end_step("grpo", 1, names)
        timeline.close()
        write_s = time.process_time() - begun
        size_mb = timeline_files(Path(folder), "grpo")[0].stat().st_size / 1e6
    with tempfile.TemporaryDirectory() as folder:
        tracemalloc.start()
        timeline = StepTimelines(Path(folder), 0)
        step(timeline, options.workers, options.groups)
        peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    per_span_us = 1e6 * spans_s / (4 * options.groups)
    say(f"{options.workers} workers, {options.groups} groups, {4 * options.groups} spans")
    say(f"per span       {per_span_us:6.1f} us CPU   ({4 * per_span_us:.0f} us per group)")
    say(f"end of step    {write_s:6.2f} s CPU    (in a thread of its own, once per step)")
    say(f"file           {size_mb:6.2f} MB       (at most {MAX_SPANS} spans)")
    say(f"memory         {peak_mb:6.1f} MB       (spans of the step)")
    return int(per_span_us > MOST_US or size_mb > MOST_MB)


if __name__ == "__main__":
    sys.exit(main())
