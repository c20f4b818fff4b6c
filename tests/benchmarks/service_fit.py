"""Answers beside a fit: latency and rate of ``POST /v1/classify`` alone, and while a fit trains.

    python -m tests.benchmarks.service_fit RUN VIDEOS [--fit-cpus N] [--seconds S] [--json FILE]

A real ``deepintuit serve`` on the classifier of a run (``make demo``), two callers with a clip at a
time each, clips that were decoded before; then the same beside a fit of the run's own archive, from
the moment at which its verdict trains. At the end the fit is cancelled. ``--fit-cpus`` is that of
serve; without it fits have half of the cores, and serving may use all. Prints one row per figure;
ends with status 1 if a limit is missed. Four minutes on two cores, most of them for starts.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import httpx

from calibrate.classifier import load_classifier
from tests.benchmarks.figures import Figure, report, say
from tests.benchmarks.service import service

_CALLERS = 2
_CLIPS = 24
_LIMIT = 2.0  # times the median without a fit: of two cores each has one, memory is shared
_START_S = 180.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--fit-cpus")
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return report(figures(Path(folder), options), options.json)


def figures(folder: Path, options: argparse.Namespace) -> Iterator[Figure]:
    run, videos = options.run.resolve(), options.videos.resolve()
    clips = [str(clip) for clip in sorted(videos.rglob("*.mp4"))[:_CLIPS]]
    more = ["--root", str(run), *(["--fit-cpus", options.fit_cpus] if options.fit_cpus else [])]
    classifier = load_classifier(run)
    with (
        service(folder, classifier, videos, folder / "cache", more) as (url, token, _),
        httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=120
        ) as http,
    ):
        seconds_of(http, clips, options.seconds / 4)  # decodes all of them
        alone = yield from rows("alone", http, clips, options.seconds)
        location = start_fit(http, run)
        before = trained(http, location)
        beside = yield from rows("beside_fit", http, clips, options.seconds)
        after = trained(http, location)
        rate = (after[0] - before[0]) / (after[1] - before[1])
        yield Figure("service_fit/updates", rate, "1/s")
        start = time.perf_counter()
        http.post(f"{location}/cancel").raise_for_status()
        while http.get(location).json()["status"] == "running":
            time.sleep(0.05)
        yield Figure("service_fit/cancelled_in", time.perf_counter() - start, "s")
        limit = _LIMIT if options.fit_cpus else None
        yield Figure("service_fit/slower", beside / alone, "times", limit, "below")


def rows(
    name: str, http: httpx.Client, clips: Sequence[str], seconds: float
) -> Generator[Figure, None, float]:
    """Figures of so many seconds; the generator returns the median."""
    latencies = sorted(seconds_of(http, clips, seconds))
    median = statistics.median(latencies)
    last = latencies[int(0.99 * (len(latencies) - 1))]
    yield Figure(f"service_fit/{name}/rate", len(latencies) / seconds, "clips/s")
    yield Figure(f"service_fit/{name}/p50", 1e3 * median, "ms")
    yield Figure(f"service_fit/{name}/p99", 1e3 * last, "ms")
    return median


def seconds_of(http: httpx.Client, clips: Sequence[str], seconds: float) -> list[float]:
    """Seconds that each answer took."""
    end, taken = time.perf_counter() + seconds, []

    def call(first: int) -> None:
        for clip in cycle([*clips[first:], *clips[:first]]):
            if (start := time.perf_counter()) >= end:
                return
            answer = http.post("/v1/classify", json={"video": {"path": clip}})
            assert answer.status_code == 200, answer.text
            taken.append(time.perf_counter() - start)

    with ThreadPoolExecutor(_CALLERS) as pool:
        list(pool.map(call, [caller * len(clips) // _CALLERS for caller in range(_CALLERS)]))
    return taken


def start_fit(http: httpx.Client, run: Path) -> str:
    order = {"source": str(run), "methods": ["verdict"], "settings": ["calibrate.epochs=50"]}
    answer = http.post("/v1/fits", json=order)
    assert answer.status_code == 202, answer.text
    return answer.headers["Location"]


def trained(http: httpx.Client, location: str) -> tuple[int, float]:
    """Updates of the fit's verdict so far, and when it said so; waits for the first."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        fit = http.get(location).json()
        assert fit["status"] in ("queued", "running"), fit
        progress = fit["progress"] or {}
        if progress.get("done"):
            return progress["done"], progress["at"]
        time.sleep(0.2)
    say(http.get(f"{location}/log").text)
    sys.exit(f"the fit does not train after {_START_S:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
