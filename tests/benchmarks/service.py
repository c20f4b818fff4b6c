"""Cost of the service over its engine alone: clips per second of whole HTTP requests beside those
of the same pipeline without any service.

    python -m tests.benchmarks.service [--json FILE] [--clips N] [--rounds N] [--classifier DIR
                                        --videos DIR]

Rounds take turns, each with other clips: N by ``Pipeline.classify_all`` in this process, then the
same N by ``POST /v1/classify`` (a path each) to a real ``deepintuit serve``, as many at a time.
Both have engines of their own with the same settings, and clips that were decoded before. A request
passes token, limits, admission, queue, the worker's process, calibration, policies and a
transaction with audit row on disk. ``cost`` is the share of the rate that this takes; ``cpu`` the
processor time of the service's own process for a request; ``latency`` that of one clip alone.

Without a classifier: the demo's base model, read as ``policy``, whose engine takes 10 ms for a
clip: for a model of 7B it is a hundred times that. Prints one row per figure: name, value, unit,
limit. Ends with status 1 if a limit is missed. Three minutes on two cores.
"""

import argparse
import asyncio
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from calibrate.classifier import Classifier, load_classifier
from cluster.classify.inputs import ClipInputs
from cluster.classify.machine import Machine
from cluster.classify.open import open_pipeline
from cluster.classify.pipeline import Pipeline
from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from tests.benchmarks.classify import publish
from tests.benchmarks.figures import Figure, report
from wire.types import Sample

_LIMIT = 0.05
_AT_A_TIME = 32
_ALONE = 20
_WARM_UP = 16
_START_S = 240.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--classifier", type=Path)
    parser.add_argument("--videos", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return report(figures(Path(folder), options), options.json)


def figures(folder: Path, options: argparse.Namespace) -> Iterator[Figure]:
    needed = options.clips * options.rounds + _WARM_UP + 2 * _ALONE
    if options.classifier is None:
        make_demo_data(
            folder / "data", train=40, traces=1, val=5, cal=5, test=(needed + 4) // 5 * 5
        )
        make_demo_model(folder / "model")
        classifier, videos = publish(folder, "policy"), folder / "data/clips/test"
    else:
        classifier, videos = load_classifier(options.classifier), options.videos
    inputs = ClipInputs([str(videos)], classifier.description.label_set)
    samples = list(itertools.islice(inputs, needed))
    if len(samples) < needed:
        sys.exit(f"{len(samples)} clips below {videos}, {needed} are needed")
    yield from asyncio.run(measure(folder, classifier, videos, samples, options))


async def measure(
    folder: Path,
    classifier: Classifier,
    videos: Path,
    samples: Sequence[Sample],
    options: argparse.Namespace,
) -> list[Figure]:
    parts = iter(samples)

    def take(count: int) -> list[Sample]:
        return list(itertools.islice(parts, count))

    cache = folder / "cache"
    machine = Machine(cache_dir=cache, in_flight=_AT_A_TIME)
    alone, served, lone, lone_served = [], [], [], []
    with service(folder, classifier, videos, cache) as (url, token, process):
        async with (
            open_pipeline(classifier, machine) as pipeline,
            httpx.AsyncClient(
                base_url=url,
                headers={"Authorization": f"Bearer {token}"},
                timeout=300,
                limits=httpx.Limits(max_connections=_AT_A_TIME),
            ) as http,
        ):
            await asyncio.gather(*[pipeline._answering.inputs.clip(one.video) for one in samples])
            warm_up = take(_WARM_UP)
            await by_pipeline(pipeline, warm_up)
            await by_service(http, warm_up)
            cpu = 0.0
            for _ in range(options.rounds):
                clips = take(options.clips)
                alone.append(options.clips / await by_pipeline(pipeline, clips))
                before = sum(process.cpu_times()[:2])
                served.append(options.clips / await by_service(http, clips))
                cpu += sum(process.cpu_times()[:2]) - before
            for clip in take(_ALONE):
                lone.append(await by_pipeline(pipeline, [clip]))
                lone_served.append(await by_service(http, [clip]))
    rates = statistics.median(alone), statistics.median(served)
    latency = statistics.median(lone), statistics.median(lone_served)
    return [
        Figure("service/pipeline_alone", rates[0], "clips/s"),
        Figure("service/over_http", rates[1], "clips/s"),
        Figure("service/cost", 1 - rates[1] / rates[0], "share", _LIMIT, "below"),
        Figure("service/cpu", 1e3 * cpu / (options.rounds * options.clips), "ms"),
        Figure("service/latency_alone", 1e3 * latency[0], "ms"),
        Figure("service/latency_over_http", 1e3 * latency[1], "ms"),
        Figure("service/latency_added", 1e3 * (latency[1] - latency[0]), "ms"),
    ]


@contextmanager
def service(
    folder: Path, classifier: Classifier, videos: Path, cache: Path
) -> Iterator[tuple[str, str, psutil.Process]]:
    """URL, token and process of a service that is ready."""
    command = [sys.executable, "-m", "cluster.cli", "serve", str(classifier.path), "--port", "0",
               "--state", str(folder / "state"), "--root", str(videos), "--cache-dir", str(cache),
               "--device", "cpu"]  # fmt: skip
    with (folder / "service.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            url, token = _address(folder / "service.log", process)
            yield url, token, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)


def _address(log: Path, process: "subprocess.Popen[bytes]") -> tuple[str, str]:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        lines = log.read_text().splitlines()
        opened = [line for line in lines if "#token=" in line]
        if opened and any("ready: clips are answered" in line for line in lines):
            url, _, token = opened[0].partition("open ")[2].partition("/#token=")
            return url, token.strip()
        time.sleep(0.2)
    sys.exit(f"the service is not ready:\n{log.read_text()}")


async def by_pipeline(pipeline: Pipeline, samples: Sequence[Sample]) -> float:
    start = time.perf_counter()
    failed = [row.failure async for row in pipeline.classify_all(samples) if row.failure]
    assert not failed, failed[0]
    return time.perf_counter() - start


async def by_service(http: httpx.AsyncClient, samples: Sequence[Sample]) -> float:
    places = asyncio.Semaphore(_AT_A_TIME)

    async def one(sample: Sample) -> None:
        async with places:
            body: dict[str, Any] = {"video": {"path": sample.video}, "id": sample.id}
            answer = await http.post("/v1/classify", json=body)
            assert answer.status_code == 200, answer.text

    start = time.perf_counter()
    await asyncio.gather(*[one(sample) for sample in samples])
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
