"""Learner ranks in Ray actors, with the questions that the tests of DeepSpeed ask of them."""

import gc
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from safetensors import safe_open
from torch.profiler import profile

from learner import zero
from learner.config import OptimConfig
from learner.ranks.rendezvous import open_rendezvous
from learner.shared_prefix.layout import Call, Span
from learner.shared_prefix.rows import Row, StepCounts
from learner.worker import LearnerWorker, Objective
from tests.learner.builders import make_learner, make_row

SGD = OptimConfig(kind="sgd", grad_clip=0)
LENGTHS = [(3, 5), (2,), (7, 1), (4,), (6,), (2, 2)]
ROWS = [make_row(seed, lengths) for seed, lengths in enumerate(LENGTHS)]
COUNTS = StepCounts.of(ROWS)
UNEVEN = (ROWS[:5], ROWS[5:])
_HEADER = 100_000  # bytes of a file's header at most
_TIMEOUT_S = 300  # of one call; importing DeepSpeed takes most of it on a busy machine


class TestRank:
    """One process; a new learner per test, because importing DeepSpeed takes long."""

    __test__ = False

    def __init__(self, rank: int, num_ranks: int) -> None:
        self._rank, self._num_ranks = rank, num_ranks
        self._worker: LearnerWorker | None = None

    def open_rendezvous(self) -> int:
        return open_rendezvous(self._num_ranks)

    def start(self, port: int, model_dir: Path, optim: OptimConfig, config: dict[str, Any]) -> None:
        if self._worker is not None:
            self._worker.engine.close()
        self._worker = make_learner(num_ranks=self._num_ranks, **config)
        self._worker.join(self._rank, "127.0.0.1", port)
        self._worker.begin(str(model_dir), optim)

    def reduce_in_buckets_of(self, num_elements: int) -> None:
        zero._BUCKET = num_elements

    def call(self, method: str, *values: Any) -> Any:
        return getattr(self._worker, method)(*values)

    def weights(self) -> dict[str, np.ndarray]:
        return {n: t.float().numpy().copy() for n, t in self._worker.engine.full_parameters()}

    def pieces(self, what: str) -> dict[str, np.ndarray]:
        """Of the engine's full_parameters: adapter, base or merged."""
        found = self._worker.engine.full_parameters(kind=what)
        return {name: tensor.float().numpy().copy() for name, tensor in found}

    def weights_by_bucket(self, bucket_bytes: int) -> tuple[dict[str, np.ndarray], list[int]]:
        """All weights, held at the same time, and how many each gather brought; checked against
        the shapes that are told without gathering."""
        from deepspeed.runtime.zero import partition_parameters as zero

        engine, sizes = self._worker.engine, list[int]()
        partitioned = zero.Init._all_gather

        def counting(this: Any, params: list[Any], *args: Any, **kwargs: Any) -> Any:
            sizes.append(len(params))
            return partitioned(this, params, *args, **kwargs)

        zero.Init._all_gather = counting
        try:
            found = list(engine.full_parameters(bucket_bytes))
        finally:
            zero.Init._all_gather = partitioned
        assert engine.weight_shapes() == [(name, tuple(tensor.shape)) for name, tensor in found]
        return {name: tensor.float().numpy().copy() for name, tensor in found}, sizes

    def train(
        self, rows: Sequence[Row], counts: StepCounts, objective: Objective, rates: Sequence[float]
    ) -> list[dict[str, float]]:
        figures = []
        for rate in rates:
            figures.append(self._worker.train_step(rows, counts, objective, rate))
            self._worker.rest()
        return figures

    def gradient(
        self, rows: Sequence[Row], counts: StepCounts, objective: Objective, rate: float
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """(weights before - weights after) / rate, and the step's metrics."""
        before = self.weights()
        metrics = self._worker.train_step(rows, counts, objective, rate)
        after = self.weights()
        return {name: (before[name] - after[name]) / rate for name in before}, metrics

    def poisoned_step(self, rows: Sequence[Row], counts: StepCounts) -> tuple[bool, float]:
        """Whether a gradient that is not finite left the weights alone, and what was reported."""
        first = replace(rows[0].responses[0], advantage=float("inf"))
        poisoned = [replace(rows[0], responses=(first,)), *rows[1:]]
        before = self.weights()
        metrics = self._worker.train_step(poisoned, counts, "grpo", 1.0)
        after = self.weights()
        same = all(np.array_equal(before[name], after[name]) for name in before)
        return same, metrics["update_skipped"]

    def blind_responses(self) -> None:
        """From here on, in this process, responses behind a shared prompt do not see it."""
        every = Span.calls.fget

        def without_prompt(span: Span) -> list[Call]:
            return [call for call in every(span) if call.causal]

        Span.calls = property(without_prompt)  # type: ignore[method-assign, assignment]

    def begin_again(self, model_dir: Path) -> tuple[int, int]:
        """Bytes of tensors and number of process groups that this adds."""
        groups = torch.distributed.distributed_c10d._world.pg_map
        num_bytes, num_groups = _bytes_of_tensors(), len(groups)
        self._worker.begin(str(model_dir), SGD)
        return _bytes_of_tensors() - num_bytes, len(groups) - num_groups

    def peak_of_begin(self, model_dir: Path) -> float:
        """Most bytes that this process allocated at a time, over the model's, from the file to the
        placed model. A move to the device copies here, as it does on a GPU: the peak is that of
        host and device together; what is only mapped from the file does not count."""
        import deepspeed

        self._worker.engine.close()  # else what it frees would count
        self._worker._engine = None
        gc.collect()  # garbage of tests before this one, and when the next of it is collected
        placed = _ends_before(deepspeed.runtime.engine.DeepSpeedEngine, "_configure_optimizer")
        with _copying_moves(), profile(profile_memory=True) as profiler, placed:
            self._worker.begin(str(model_dir), SGD)
        mapped = (model_dir / "model.safetensors").stat().st_size - _HEADER  # one piece
        events = profiler.profiler.kineto_results.events()
        memory = sorted(
            (event.start_ns(), event.nbytes())
            for event in events
            if event.name() == "[memory]" and abs(event.nbytes()) < mapped
        )
        steps = np.cumsum([num_bytes for _, num_bytes in memory])
        self._worker.begin(str(model_dir), SGD)  # whole again
        return float(steps.max()) / _bytes_of_model(model_dir, self._worker._config.dtype)

    def draw(self) -> list[float]:
        """The next number of every generator."""
        return [random.random(), float(np.random.normal()), float(torch.rand(()))]

    def stop(self) -> None:
        torch.distributed.destroy_process_group()


class _Reached(Exception):
    pass


@contextmanager
def _ends_before(owner: type, method: str) -> Iterator[None]:
    """Leaves the block where it would call this method."""

    def reached(*_: Any, **__: Any) -> None:
        raise _Reached

    original = getattr(owner, method)
    setattr(owner, method, reached)
    try:
        with suppress(_Reached):
            yield
    finally:
        setattr(owner, method, original)


@contextmanager
def _copying_moves() -> Iterator[None]:
    """On a CPU a move to the device returns the tensor itself; here it copies."""
    tensor_to, module_to = torch.Tensor.to, torch.nn.Module.to

    def copied(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        moved = tensor_to(tensor, *args, **kwargs)
        moves = bool(args) and isinstance(args[0], torch.device)
        return moved.clone() if moves and moved.data_ptr() == tensor.data_ptr() else moved

    torch.Tensor.to = copied  # type: ignore[method-assign, assignment]
    torch.nn.Module.to = lambda module, *_, **__: module._apply(torch.clone)  # type: ignore[method-assign, assignment, misc]
    try:
        yield
    finally:
        torch.Tensor.to, torch.nn.Module.to = tensor_to, module_to  # type: ignore[method-assign]


def _bytes_of_model(model_dir: Path, dtype: str) -> int:
    with safe_open(model_dir / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    return sum(math.prod(shape) for shape in shapes) * getattr(torch, dtype).itemsize


def _bytes_of_tensors() -> int:
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


class Ranks:
    """Actors that form one learner."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        actor = ray.remote(num_cpus=1)(TestRank)
        self._actors = [actor.remote(rank, num_ranks) for rank in range(num_ranks)]
        self._port = ray.get(self._actors[0].open_rendezvous.remote(), timeout=_TIMEOUT_S)

    def start(self, model_dir: Path, optim: OptimConfig, **config: Any) -> None:
        self.all("start", self._port, model_dir, optim, config)

    def all(self, method: str, *values: Any) -> list[Any]:
        return self.each(method, [()] * len(self._actors), *values)

    def one(self, rank: int, method: str, *values: Any) -> Any:
        return ray.get(getattr(self._actors[rank], method).remote(*values), timeout=_TIMEOUT_S)

    def each(self, method: str, firsts: Sequence[tuple[Any, ...]], *values: Any) -> list[Any]:
        calls = [
            getattr(actor, method).remote(*first, *values)
            for actor, first in zip(self._actors, firsts, strict=True)
        ]
        return ray.get(calls, timeout=_TIMEOUT_S)

    def train(self, *rates: float, split: Sequence[list[Row]] = UNEVEN) -> dict[str, np.ndarray]:
        """The weights after these steps."""
        hands = [(hand,) for hand in split]
        self.each("train", hands, COUNTS, "supervised", rates)
        return self.all("weights")[0]

    def stop(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
