"""Cost of the service over its engine alone: clips per second of whole HTTP requests beside those
of the same pipeline without any service.

    python -m tests.benchmarks.service [--json FILE] [--clips N] [--rounds N] [--classifier DIR
                                        --videos DIR] [--only front]

Rounds take turns, each with other clips: N by ``Pipeline.classify_all`` in this process, then the
same N by ``POST /v1/classify`` (a path each) to a real ``deepintuit serve``, as many at a time.
Both have engines of their own with the same settings, and clips that were decoded before. A request
passes token, limits, admission, queue, the worker's process, calibration, policies and a
transaction with audit row on disk. ``cost`` is the share of the rate that this takes; ``cpu`` the
processor time of the service's own process for a request; ``latency`` that of one clip alone.

Without a classifier there are two. ``long``: traces of 400 tokens, as a reasoning model's are, by a
tiny model without training that never ends one; it has the limit. ``short``: the demo's base model,
whose traces of 7 tokens take its engine 5 ms. A request costs the same for both. ``front`` is that
cost alone: an engine that answers at once, in the service's process. Prints a row per figure: name,
value, unit, limit. Ends with status 1 if a limit is missed. Four minutes on two cores.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from calibrate.calibration import Calibration
from calibrate.calibrator import Calibrator
from calibrate.classifier import Classifier, load_classifier, publish_classifier
from calibrate.description import AnswerSettings
from calibrate.service.service import Service
from cluster.classify.inputs import ClipInputs
from cluster.classify.machine import Machine
from cluster.classify.open import open_pipeline
from cluster.classify.pipeline import Pipeline
from cluster.config.recipe import read_recipe
from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from cluster.inputs.classifier_settings import describe
from tests.benchmarks.figures import Figure, report
from tests.calibrate.classifiers import make_provenance
from tests.calibrate.service.fakes import ScriptedBackend, publish_tiny
from tests.calibrate.service.running import make_config, make_parts, running
from tests.tiny_models import write_tiny_model
from wire.types import PolicyVersion, Sample, Split

_ROOT = Path(__file__).parents[2]
_LIMIT = 0.05
_LONG = 400
_AT_A_TIME = 32
_ALONE = 8
_WARM_UP = 16
_FRONT = 500
_START_S = 240.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--only", choices=("front", "long", "short"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--classifier", type=Path)
    parser.add_argument("--videos", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return report(figures(Path(folder), options), options.json)


def figures(folder: Path, options: argparse.Namespace) -> Iterator[Figure]:
    needed = options.clips * options.rounds + _WARM_UP + 2 * _ALONE
    if options.classifier is not None:
        classifier = load_classifier(options.classifier)
        yield from asyncio.run(measure(folder, "given", classifier, options.videos, options))
        return
    if options.only in (None, "front"):
        yield from front(folder)
    if options.only == "front":
        return
    make_demo_data(folder / "data", train=40, traces=1, val=5, cal=5, test=(needed + 4) // 5 * 5)
    for name in ("long", "short"):
        if options.only in (None, name):
            classifier = publish_as(folder / name, folder / "data", long=name == "long")
            videos = folder / "data/clips/test"
            yield from asyncio.run(measure(folder / name, name, classifier, videos, options))


def front(folder: Path) -> Iterator[Figure]:
    """What a request costs beside the engine."""
    published = publish_tiny(folder / "published").path
    paths = [folder / "clips" / f"{number}.mp4" for number in range(_FRONT + _ALONE)]
    (folder / "clips").mkdir()
    for path in paths:
        path.write_text(path.name)
    samples = [Sample(id=one.name, video=str(one), label="", split=Split.TEST) for one in paths]

    def prepare(service: Service) -> None:
        service.registry.register(published, source="benchmark", by="benchmark")
        service.registry.promote(1, by="benchmark", expected_champion=None, reason="")

    rate = {"per_second": 1e6, "burst": 1_000_000}
    config = make_config(folder, roots=(folder / "clips",), rate=rate)
    with running(config, make_parts(backend=ScriptedBackend()), prepare) as service:
        while service.service.not_ready():
            time.sleep(0.01)
        token = service.headers()["Authorization"].removeprefix("Bearer ")
        seconds = asyncio.run(by_service(Clients(service.url, token), samples[:_FRONT]))
        yield Figure("service/front/rate", _FRONT / seconds, "req/s")
        alone = [
            asyncio.run(by_service(Clients(service.url, token), [sample]))
            for sample in samples[_FRONT:]
        ]
        yield Figure("service/front/latency", 1e3 * statistics.median(alone), "ms")


def publish_as(folder: Path, data: Path, *, long: bool) -> Classifier:
    """A classifier that reads ``policy``: one engine."""
    folder.mkdir()
    settings = [f"data.manifest={data / 'manifest.jsonl'}", f"model={folder / 'model'}"]
    if long:
        write_tiny_model(folder / "model", "qwen2_5_vl", seed=0)
        settings.append(f"rollout.max_response_length={_LONG}")
    else:
        make_demo_model(folder / "model")
    config = read_recipe(_ROOT / "recipes/demo.toml", settings)
    return publish_classifier(
        folder / "classifier",
        describe(
            config,
            {},
            name=folder.name,
            sources=("policy",),
            policy=PolicyVersion(attempt=0, step=0),
            answers=AnswerSettings(),
        ),
        calibration=Calibration(
            calibrator=Calibrator(label_names=config.label_set.names, weights={"policy": 1.0})
        ),
        provenance=make_provenance(),
        policy_dir=folder / "model",
    )


async def measure(
    folder: Path, name: str, classifier: Classifier, videos: Path, options: argparse.Namespace
) -> list[Figure]:
    needed = options.clips * options.rounds + _WARM_UP + 2 * _ALONE
    inputs = ClipInputs([str(videos)], classifier.description.label_set)
    samples = list(itertools.islice(inputs, needed))
    if len(samples) < needed:
        sys.exit(f"{len(samples)} clips below {videos}, {needed} are needed")
    parts = iter(samples)

    def take(count: int) -> list[Sample]:
        return list(itertools.islice(parts, count))

    cache = folder / "cache"
    machine = Machine(cache_dir=cache, in_flight=_AT_A_TIME)
    alone, served, lone, lone_served = [], [], [], []
    with service(folder, classifier, videos, cache) as (url, token, process):
        http = Clients(url, token)
        async with open_pipeline(classifier, machine) as pipeline:
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
        Figure(f"service/{name}/pipeline_alone", rates[0], "clips/s"),
        Figure(f"service/{name}/over_http", rates[1], "clips/s"),
        Figure(
            f"service/{name}/cost",
            1 - rates[1] / rates[0],
            "share",
            None if name == "short" else _LIMIT,
            "below",
        ),
        Figure(f"service/{name}/cpu", 1e3 * cpu / (options.rounds * options.clips), "ms"),
        Figure(f"service/{name}/latency_alone", 1e3 * latency[0], "ms"),
        Figure(f"service/{name}/latency_over_http", 1e3 * latency[1], "ms"),
        Figure(f"service/{name}/latency_added", 1e3 * (latency[1] - latency[0]), "ms"),
    ]


@contextmanager
def service(
    folder: Path, classifier: Classifier, videos: Path, cache: Path, more: Sequence[str] = ()
) -> Iterator[tuple[str, str, psutil.Process]]:
    """URL, token and process of a service that is ready. ``more``: further options."""
    command = [sys.executable, "-m", "cluster.cli", "serve", str(classifier.path), "--port", "0",
               "--state", str(folder / "state"), "--root", str(videos), "--cache-dir", str(cache),
               "--device", "cpu", *more]  # fmt: skip
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


async def by_service(http: "Clients", samples: Sequence[Sample]) -> float:
    async with http.connected(min(_AT_A_TIME, len(samples))):
        start = time.perf_counter()
        await asyncio.gather(*[http.classify(sample) for sample in samples])
        return time.perf_counter() - start


class Clients:
    """Clients on connections of their own; they take little of the processor, as ones on other
    machines would."""

    def __init__(self, url: str, token: str) -> None:
        self._address, self._token = urlsplit(url), token
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        self._free = asyncio.Queue()

    @asynccontextmanager
    async def connected(self, count: int) -> AsyncIterator[None]:
        """So many connections, for the block: the service closes those that are idle."""
        for _ in range(count):
            place = self._address.hostname, self._address.port
            self._free.put_nowait(await asyncio.open_connection(*place))
        yield
        while not self._free.empty():
            self._free.get_nowait()[1].close()

    async def classify(self, sample: Sample) -> None:
        body = json.dumps({"video": {"path": sample.video}, "id": sample.id}).encode()
        head = (
            "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {self._token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        reader, writer = await self._free.get()
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        content = await reader.readexactly(length)
        assert answer.startswith(b"HTTP/1.1 200"), content
        self._free.put_nowait((reader, writer))


if __name__ == "__main__":
    sys.exit(main())
