"""Parts that a bucket of weights passes on its way to another node, measured, and what they come to
for a model of 16.6 GB on 4 nodes of 4 engines.

    rank 0: digest, put -> network, to 3 nodes -> hold: digest, copy -> load, 4 engines at once

``serial``: one bucket after another, all engines paused from the first to the last, as it was until
now. ``pipelined``: the order of cluster/actors/bucket_client.py: a node holds two buckets. The load
is what the real receiver does (fingerprint, copy into the parameters), from memory to memory; on a
GPU the copy goes over PCIe, which these figures do not have.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tests.benchmarks.figures import Figure
from wire.shared_memory import SharedBuffer
from wire.weights import digest, fill, plan, unpack

_GB, _BUCKET = 16.6, 2**28
_FAR_NODES = 3  # the fourth is rank 0's own
_ROUNDS = 5


@dataclass(frozen=True)
class Parts:
    """Seconds of one bucket in each part."""

    copy: float
    digest: float
    network: float
    load: float


def measure_parts(gbit: float) -> list[Figure]:
    """Speeds of the parts, and the seconds that they come to."""
    source, place = (SharedBuffer(_BUCKET) for _ in range(2))
    source.data[:] = np.random.default_rng(0).integers(0, 255, _BUCKET, np.uint8)
    copied = _median(lambda: np.copyto(place.data, source.data))
    digested = _median(lambda: digest(source.data))
    loaded = _median(_receiver(place))
    network = _FAR_NODES * _BUCKET / (gbit / 8 * 1e9)
    parts = Parts(copy=copied, digest=digested, network=network, load=loaded)
    count = round(_GB * 1e9 / _BUCKET)
    before, (after, paused) = serial(parts, count), pipelined(parts, count)
    speeds = {"copy": copied, "digest": digested, "load": loaded}
    return [
        *(Figure(f"part/{k}", _BUCKET / 1e9 / s, "GB/s") for k, s in speeds.items()),
        Figure("part/network", gbit / 8, "GB/s"),
        Figure("16.6gb_4x4/serial", before, "s"),
        Figure("16.6gb_4x4/pipelined", after, "s"),
        Figure("16.6gb_4x4/pipelined/engines_paused", paused, "s"),
        Figure("16.6gb_4x4/share_of_serial", after / before, "share", 0.6, "below"),
    ]


def serial(parts: Parts, count: int) -> float:
    """Seconds of one bucket after another."""
    hold = parts.network + parts.digest + parts.copy
    return count * (parts.digest + parts.copy + hold + parts.load)


def pipelined(parts: Parts, count: int, places: int = 2) -> tuple[float, float]:
    """Seconds until the last bucket is loaded, and for how many of them the engines are paused."""
    put = sent = 0.0
    held, loaded = list[float](), list[float]()
    for index in range(count):
        put += parts.digest + parts.copy
        free = loaded[index - places] if index >= places else 0.0
        sent = max(put, free, sent) + parts.network
        put = max(put, free)  # the carrier waits for the place, too
        held.append(sent + parts.digest + parts.copy)
        loaded.append(max(held[-1], loaded[-1] if loaded else 0.0) + parts.load)
    return loaded[-1], loaded[-1] - held[0]


def _receiver(place: SharedBuffer) -> Callable[[], Any]:
    """Load of a bucket as an engine does it: fingerprint, then parameter by parameter."""
    shapes = [(f"w{i}", torch.bfloat16, (3584, 3584)) for i in range(10)]
    (layout,) = plan(shapes, _BUCKET)
    tensors = [(name, torch.ones(shape, dtype=kind)) for name, kind, shape in shapes]
    bucket = fill(layout, tensors, place.data)
    parameters, header = dict(tensors), bucket.header()
    share = _BUCKET / len(bucket.data)

    def load(weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in weights:
            parameters[name].copy_(tensor)

    def timed() -> float:
        start = time.perf_counter()
        load(unpack(header, place.data))
        return share * (time.perf_counter() - start)

    return timed


def _median(call: Callable[[], Any]) -> float:
    """Seconds of a call, or what it says it took; the median of some rounds, after a first one."""
    seconds = []
    for _ in range(_ROUNDS + 1):
        start = time.perf_counter()
        taken = call()
        seconds.append(taken if isinstance(taken, float) else time.perf_counter() - start)
    return statistics.median(seconds[1:])
