"""Load on a running service: 200 clients for two minutes, then more clients than its queue holds.

    python -m tests.benchmarks.service_load CLASSIFIER_OR_RUN --videos DIR [--json FILE]
        [--clients 200] [--seconds 120] [--excess 1.5] [--only service|pipeline]
    python -m tests.benchmarks.service_load --scripted [--delay-s S] [--json FILE]

Starts `deepintuit serve` in a state directory of its own. Each client sends one clip after the
other, as an upload; each clip is a file that the service has never seen (an empty box with a number
is appended), so that it is stored, inspected and decoded anew. First as many clients as are asked
for, for the stated time, after a short warm-up; then `--excess` times as many as the queue and the
engines hold, for a tenth of the time, each of them waiting as Retry-After says. `--scripted`: an
engine that answers 64 clips a second (after `--delay-s`); with 0 at once, so that the service
itself is what is measured.

Then such clips with the same classifier in `deepintuit classify`'s pipeline alone. `--only` does
one of both. Prints one row per figure: name, value, unit, limit; ends with status 1 if a limit is
missed. Four minutes on two cores.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.benchmarks.figures import Figure, report, say

_READY_S = 180
_ADDRESS = re.compile(r"(http://127\.0\.0\.1:\d+)/#token=(\S+)")
_BOX = 16
_QUEUE = 256
_IN_FLIGHT = 64
_PIPELINE_CLIPS = 1000


@dataclass
class Load:
    """Outcome of a load."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """Of each request that was answered with a decision."""
    missing_retry_after: int = 0
    wall_s: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.seconds) / max(self.wall_s, 1e-9)

    def quantile(self, share: float) -> float:
        if len(self.seconds) < 2:
            return float("nan")
        return statistics.quantiles(self.seconds, n=1000, method="inclusive")[int(share * 1000) - 1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("classifier", nargs="?", type=Path)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--scripted", action="store_true")
    parser.add_argument("--delay-s", type=float, default=1.0, help="of a scripted answer")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--excess", type=float, default=1.5)
    parser.add_argument("--only", choices=("service", "pipeline"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.scripted == (options.classifier is not None):
        parser.error("give a classifier with --videos, or --scripted")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the service ends with this process
    with tempfile.TemporaryDirectory() as folder:
        return report(figures(Path(folder), options), options.json)


def figures(folder: Path, options: argparse.Namespace) -> Iterator[Figure]:
    videos = [b"a clip"] if options.scripted else _contents(options.videos)
    numbers = itertools.count()
    if options.only != "pipeline":
        yield from of_service(folder, options, videos, numbers)
    if options.only != "service" and not options.scripted:
        alone = asyncio.run(pipeline_alone(folder, options.classifier, videos, numbers))
        yield Figure("pipeline/clips_per_s", alone, "1/s")


def of_service(
    folder: Path, options: argparse.Namespace, videos: Sequence[bytes], numbers: Iterator[int]
) -> Iterator[Figure]:
    with served(folder, options) as (url, token):

        def loaded(clients: int, seconds: float) -> Load:
            return asyncio.run(load(url, token, videos, numbers, clients=clients, seconds=seconds))

        loaded(8, 3)
        steady = loaded(options.clients, options.seconds)
        yield from rows("steady", steady)
        yield Figure("steady/refused", steady.statuses["429"], "requests", 0, "below")
        beyond = int((_QUEUE + _IN_FLIGHT) * options.excess)
        excess = loaded(beyond, max(5, options.seconds / 10))
        yield from rows("excess", excess)
        fills = not options.scripted or options.delay_s > 0  # else HTTP is slower than the engine
        yield Figure("excess/refused", excess.statuses["429"], "requests", 1 if fills else None)
        yield Figure("excess/no_retry_after", excess.missing_retry_after, "requests", 0, "below")


def rows(name: str, outcome: Load) -> Iterator[Figure]:
    for status, count in sorted(outcome.statuses.items()):
        say(f"{name}: {status} x {count}")
    broken = sum(count for status, count in outcome.statuses.items() if not status.isdigit())
    faults = sum(count for status, count in outcome.statuses.items() if status.startswith("5"))
    yield Figure(f"{name}/answered", len(outcome.seconds), "requests", 1)
    yield Figure(f"{name}/clips_per_s", outcome.per_second, "1/s")
    yield Figure(f"{name}/p50", outcome.quantile(0.5), "s")
    yield Figure(f"{name}/p99", outcome.quantile(0.99), "s")
    yield Figure(f"{name}/status_5xx", faults, "requests", 0, "below")
    yield Figure(f"{name}/broken", broken, "requests", 0, "below")


async def load(
    url: str,
    token: str,
    videos: Sequence[bytes],
    numbers: Iterator[int],
    *,
    clients: int,
    seconds: float,
) -> Load:
    """Clients that each send one clip after the other until the time is over."""
    outcome = Load()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {token}"},
        limits=limits,
        timeout=httpx.Timeout(300, pool=None),
        trust_env=False,
    ) as http:
        start = time.perf_counter()
        end = start + seconds
        await asyncio.gather(
            *[_client(http, videos, numbers, end, outcome) for _ in range(clients)]
        )
        outcome.wall_s = time.perf_counter() - start
    return outcome


async def _client(
    http: httpx.AsyncClient,
    videos: Sequence[bytes],
    numbers: Iterator[int],
    end: float,
    outcome: Load,
) -> None:
    while time.perf_counter() < end:
        number = next(numbers)
        content = numbered(videos[number % len(videos)], number)
        start = time.perf_counter()
        try:
            answer = await http.post(
                "/v1/classify",
                files={"video": (f"{number}.mp4", content, "video/mp4")},
                data={"id": str(number)},
            )
        except httpx.TransportError as error:
            outcome.statuses[type(error).__name__] += 1
            continue
        outcome.statuses[str(answer.status_code)] += 1
        if answer.status_code == 200:
            outcome.seconds.append(time.perf_counter() - start)
        elif answer.status_code == 429:
            wait = answer.headers.get("Retry-After", "")
            outcome.missing_retry_after += not wait.isdigit()
            await asyncio.sleep(min(float(wait or 1), max(0.0, end - time.perf_counter())))


def numbered(video: bytes, number: int) -> bytes:
    """A clip of the same pictures with other bytes: an MP4 may end with a box that is free."""
    return video + _BOX.to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")


@contextlib.contextmanager
def served(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """A service that is ready, with its address and a token; ended as an operator does."""
    state = folder / "state"
    if options.scripted:
        command = [sys.executable, "-m", "tests.calibrate.service.scripted_service", str(folder)]
        command += ["--delay-s", str(options.delay_s)]
    else:
        command = [sys.executable, "-m", "cluster.cli", "serve", str(options.classifier)]
    config = folder / "service.toml"
    # one token is all clients here
    config.write_text(f"max_queue = {_QUEUE}\n[rate]\nper_second = 100000\nburst = 100000\n")
    if not options.scripted:
        command += ["--state", str(state), "--port", "0", "--config", str(config)]
    log = folder / "service.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, text=True)
    try:
        url, token = _wait_until_ready(process, log)
        yield url, token
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        say(f"the service ended with status {status}")
        if status:
            say(log.read_text()[-3000:])


def _wait_until_ready(process: subprocess.Popen[str], log: Path) -> tuple[str, str]:
    end = time.monotonic() + _READY_S
    while time.monotonic() < end and process.poll() is None:
        if (match := _ADDRESS.search(log.read_text())) is not None:
            url, token = match.groups()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/v1/health/ready", trust_env=False).status_code == 200:
                    return url, token
        time.sleep(0.2)
    raise RuntimeError(f"the service did not get ready:\n{log.read_text()[-3000:]}")


async def pipeline_alone(
    folder: Path, directory: Path, videos: Sequence[bytes], numbers: Iterator[int]
) -> float:
    """Clips per second of the classifier's pipeline without HTTP, on clips that it has not seen."""
    from calibrate.classifier import load_classifier
    from cluster.classify.engine_log import EngineLog
    from cluster.classify.inputs import ClipInputs
    from cluster.classify.machine import machine_of
    from cluster.classify.open import open_pipeline

    clips = folder / "clips"
    clips.mkdir()
    for number in itertools.islice(numbers, _PIPELINE_CLIPS):
        (clips / f"{number:06}.mp4").write_bytes(numbered(videos[number % len(videos)], number))
    classifier = load_classifier(directory)
    inputs = ClipInputs([str(clips)], classifier.description.label_set)
    machine = machine_of(
        device="auto", num_gpus=1, gpu_memory=0.9, in_flight=None, cache_dir=folder / "cache"
    )
    count, warm, start = 0, 64, 0.0
    async with open_pipeline(classifier, machine, log=EngineLog()) as pipeline:
        async for row in pipeline.classify_all(inputs):
            if row.failure is not None:
                raise RuntimeError(f"{row.id}: {row.failure.reason}")
            count += 1
            if count == warm:
                start = time.perf_counter()
        return (count - warm) / (time.perf_counter() - start)


def _contents(folder: Path) -> list[bytes]:
    videos = [path.read_bytes() for path in sorted(folder.rglob("*.mp4"))]
    if not videos:
        raise SystemExit(f"there is no .mp4 below {folder}")
    return videos


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
