"""The learner's side of a weight update, through vLLM's weight-transfer interface.

    engine's parameters -> PolicySource -> trainer engine of the backend -> client (rollout workers)

``nccl`` and ``ipc`` are vLLM's own trainer engines; ``object_store`` is ours, for machines without
NCCL: checked buckets in shared memory, which the client shows to every rollout worker. All ranks
take part, because gathering ZeRO-3 shards is a collective; rank 0 sends.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Protocol

import torch
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
)
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from learner.config import ObjectStoreConfig, TransferConfig
from learner.overlap import Call, OverlappedCalls
from wire.shared_memory import SharedBuffer
from wire.weights import Bucket, Layout, fill, plan

_DEPTH = 2  # buckets at once: one is gathered and packed, one is sent and loaded


class Weights(Protocol):
    """What is to be sent: learner/engine.py's engine."""

    def weight_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and whole shapes, in the order of the other; no collective."""

    def full_parameters(self, bucket_bytes: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Each whole; gathered by buckets. All ranks iterate."""


class PolicySource(WeightSource):
    """The policy's weights in the precision of the wire.

    vLLM's trainer engines iterate over single tensors; behind them the shards come together by
    buckets, and a bucket's memory is free again when the next one is asked for.
    """

    def __init__(
        self, weights: Callable[[], Weights], dtype: torch.dtype, bucket_bytes: int
    ) -> None:
        self._weights, self._dtype, self._bucket_bytes = weights, dtype, bucket_bytes

    def metadata(self) -> list[ParamMeta]:
        """Names, precision on the wire, whole shapes. Gathers nothing."""
        shapes = self._weights().weight_shapes()
        return [ParamMeta(name, self._dtype, shape) for name, shape in shapes]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._weights().full_parameters(self._bucket_bytes):
            yield name, tensor.to(self._dtype)


@dataclass
class ObjectStoreTrainerInit(TrainerInitInfo):
    """Trainer side of the ``object_store`` backend."""

    backend: ClassVar[str] = "object_store"
    bucket_bytes: int = 1 << 28
    timeout_s: float = 1800.0


class ObjectStoreTrainer(TrainerWeightTransferEngine[ObjectStoreTrainerInit]):
    """Sends checked buckets through the client, each with their number: a lost one is noticed.

    While the engines load a bucket, the ranks gather the next one and rank 0 packs it.
    """

    init_info_cls = ObjectStoreTrainerInit

    def __init__(self, *, bucket_bytes: int, timeout_s: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._bucket_bytes, self._timeout_s = bucket_bytes, timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="send-weights")
        self._buffers: dict[int, SharedBuffer] = {}
        self.seconds: dict[str, float] = {}
        """Of the last update, on rank 0: ``gather``, ``pack``, ``wait`` (for the engines), one
        after another, and ``send``, beside them."""

    @classmethod
    def trainer_init(
        cls,
        init_info: ObjectStoreTrainerInit,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> "ObjectStoreTrainer":
        """Ready to send; there is no rendezvous."""
        assert source is not None, "the object_store backend sends a WeightSource"
        return cls(
            client=client,
            source=source,
            is_sender=init_info.is_sender,
            bucket_bytes=init_info.bucket_bytes,
            timeout_s=init_info.timeout_s,
        )

    def send_weights(self) -> None:
        """One whole update. Raises what the client raises, WeightUpdateError, DeadlineExceeded."""
        assert self.source is not None
        self.seconds = {}
        tensors = iter(self.source)
        try:
            if self.is_sender:
                self._send(tensors)
        finally:  # the ranks gather to the end together, whatever became of the sending
            for _ in tensors:
                pass

    def _send(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        assert self.source is not None
        described = [(meta.name, meta.dtype, meta.shape) for meta in self.source.metadata()]
        layouts = plan(described, self._bucket_bytes)
        self._reserve(layouts)
        calls = OverlappedCalls(self._thread, self._timeout_s)
        sent: list[Call | None] = [None] * _DEPTH
        try:
            calls.add("the engines to begin a weight update", self.client.start_weight_update)
            for layout in layouts:
                with self._timed("gather"):
                    whole = list(islice(tensors, len(layout.entries)))
                place = layout.index % _DEPTH
                with self._timed("wait"):
                    if not calls.ended(sent[place]):
                        break
                with self._timed("pack"):
                    bucket = fill(layout, whole, self._buffers[place].data)
                del whole  # before the next gather asks for as much
                what = f"the engines to take weight bucket {layout.index + 1} of {len(layouts)}"
                sent[place] = calls.add(what, self._send_bucket, bucket, place, len(layouts))
            calls.add("the engines to finish a weight update", self.client.finish_weight_update)
            with self._timed("wait"):
                calls.end()
        finally:
            calls.give_up()

    def _send_bucket(self, bucket: Bucket, place: int, num_buckets: int) -> None:
        with self._timed("send"):
            self.client.update_weights(
                {
                    "header": bucket.header(),
                    "path": self._buffers[place].path,
                    "data": bucket.data,
                    "num_buckets": num_buckets,
                }
            )

    def _reserve(self, layouts: list[Layout]) -> None:
        """Memory for the largest bucket of each place; kept from update to update."""
        for place in range(min(_DEPTH, len(layouts))):
            most = max(layout.num_bytes for layout in layouts[place::_DEPTH])
            held = self._buffers.get(place)
            if held is None or len(held.data) < most:
                self._buffers[place] = SharedBuffer(most)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start


def connect(
    config: TransferConfig,
    client: VLLMWeightSyncClient,
    source: PolicySource,
    rank: int,
    address: str,
    num_engine_ranks: int,
    timeout_s: float,
) -> TrainerWeightTransferEngine[Any]:
    """The backend's trainer engine, its rendezvous with the rollout engines done. All ranks call.

    ``nccl`` and ``ipc`` are vLLM's own and need GPUs; they were not run on a machine without one.
    ``timeout_s`` bounds each wait of ``object_store`` for its engines.
    """
    if isinstance(config, ObjectStoreConfig):
        init: TrainerInitInfo = ObjectStoreTrainerInit(
            rank=rank, bucket_bytes=config.bucket_bytes, timeout_s=timeout_s
        )
    else:
        init = _vllm_init(config, rank, address, num_engine_ranks)
    return WeightTransferTrainerFactory.trainer_init(init, client=client, source=source)


def _vllm_init(
    config: TransferConfig, rank: int, address: str, num_engine_ranks: int
) -> TrainerInitInfo:
    if config.kind == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        return NCCLTrainerInitInfo(
            rank=rank,
            master_address=address,
            master_port=config.port,
            world_size=1 + num_engine_ranks,
        )
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    return IPCTrainerInitInfo(rank=rank)


WeightTransferTrainerFactory.register_engine("object_store", ObjectStoreTrainer)
