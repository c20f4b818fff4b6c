"""The learner's side of a weight update, through vLLM's weight-transfer interface.

    engine's parameters -> PolicySource -> trainer engine of the backend -> client (rollout workers)

``object_store`` is ours, for any machine: checked buckets in shared memory, which the client shows
to every rollout worker. ``nccl`` (nccl_transfer.py) and ``ipc`` (ipc_transfer.py) are vLLM's own
trainer engines in a frame of ours. All ranks take part, because gathering ZeRO-3 shards is a
collective; rank 0 sends.
"""

import time
from collections.abc import Callable, Iterator, Mapping
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

from learner.config import NcclConfig, ObjectStoreConfig, TransferConfig
from learner.ranks.overlapped_calls import Call, OverlappedCalls
from wire.shared_memory import SharedBuffer
from wire.weight_digest import DigestRecorder
from wire.weights import Bucket, Layout, fill, plan

_DEPTH = 2  # buckets at once: one is gathered and packed, one is sent and loaded


class Weights(Protocol):
    """Weights to be sent to the engines, as learner/export.py's ``EngineWeights`` gives them."""

    def weight_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and unsharded shapes, in the order of full_parameters; no collective."""

    def full_parameters(self, bucket_bytes: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and unsharded values, gathered by buckets. All ranks iterate."""

    def can_settle(self, dtype: torch.dtype) -> bool:
        """Whether the parameters can live, in this precision, in memory that the engines read."""

    def settle(self, places: Mapping[str, torch.Tensor]) -> None:
        """Move the parameters into ``places``, which hold their values already."""


class PolicySource(WeightSource):
    """The policy's weights in the precision of the wire.

    vLLM's trainer engines iterate over single tensors; behind them the shards come together by
    buckets, and a bucket's memory is free again when the next one is asked for.
    """

    def __init__(
        self, weights: Callable[[], Weights], dtype: torch.dtype, bucket_bytes: int
    ) -> None:
        self._weights, self._dtype, self._bucket_bytes = weights, dtype, bucket_bytes
        self.recorder: DigestRecorder | None = None
        """Recorder of what is sent, where the engines' weights are compared by digests."""

    def metadata(self) -> list[ParamMeta]:
        """Names, precision on the wire and unsharded shapes. Gathers nothing."""
        shapes = self._weights().weight_shapes()
        return [ParamMeta(name, self._dtype, shape) for name, shape in shapes]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        whole = self._weights().full_parameters(self._bucket_bytes)
        tensors = ((name, tensor.to(self._dtype)) for name, tensor in whole)
        return tensors if self.recorder is None else self.recorder.of(tensors)

    @property
    def can_settle(self) -> bool:
        """Whether the weights can live in memory that the engines read."""
        return self._weights().can_settle(self._dtype)

    def settle(self, places: Mapping[str, torch.Tensor]) -> None:
        """Move the weights into ``places``, which hold their values already."""
        self._weights().settle(places)


@dataclass
class ObjectStoreTrainerInit(TrainerInitInfo):
    """Settings of the trainer's side of the ``object_store`` backend."""

    backend: ClassVar[str] = "object_store"
    bucket_bytes: int = 1 << 28
    timeout_s: float = 1800.0


class ObjectStoreTrainer(TrainerWeightTransferEngine[ObjectStoreTrainerInit]):
    """Sends checked buckets through the client, each with its number: a lost one is noticed.

    While the engines load a bucket, the ranks gather the next one and rank 0 packs it. Weights that
    can settle are packed once: from then on they live in the memory that the engines read, and no
    bucket is waited for before the last one is sent.
    """

    init_info_cls = ObjectStoreTrainerInit

    def __init__(
        self, source: PolicySource, *, bucket_bytes: int, timeout_s: float, **kwargs: Any
    ) -> None:
        super().__init__(source=source, **kwargs)
        self._policy = source
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
        """Get ready to send; there is no rendezvous."""
        assert isinstance(source, PolicySource), f"a PolicySource is sent, not {type(source)}"
        return cls(
            source,
            client=client,
            is_sender=init_info.is_sender,
            bucket_bytes=init_info.bucket_bytes,
            timeout_s=init_info.timeout_s,
        )

    def send_weights(self) -> None:
        """Send one whole update. Raises what the client raises, WeightUpdateError,
        DeadlineExceeded."""
        self.seconds = {}
        tensors = iter(self._policy)
        try:
            if self.is_sender:
                self._send(tensors)
        finally:  # the ranks gather to the end together, whatever became of the sending
            for _ in tensors:
                pass

    def _send(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        described = [(meta.name, meta.dtype, meta.shape) for meta in self._policy.metadata()]
        layouts = plan(described, self._bucket_bytes)
        settles = self._policy.can_settle
        depth = len(layouts) if settles else _DEPTH
        calls = OverlappedCalls(self._thread, self._timeout_s)
        sent: list[Call] = []
        try:
            calls.add("the engines to begin a weight update", self.client.start_weight_update)
            for layout in layouts:
                with self._timed("gather"):
                    whole = list(islice(tensors, len(layout.entries)))
                place = layout.index % depth
                with self._timed("wait"):
                    # once the client returns from a bucket, the one before it is read no more
                    last = sent[-depth:] if layout.index >= depth else []
                    if not all(calls.wait_for(call) for call in (None, *last)):
                        break
                with self._timed("pack"):
                    bucket = self._pack(layout, whole, place, settles)
                del whole  # before the next gather asks for as much
                what = f"the engines to take weight bucket {layout.index + 1} of {len(layouts)}"
                sent.append(calls.add(what, self._send_bucket, bucket, place, len(layouts)))
            calls.add("the engines to finish a weight update", self.client.finish_weight_update)
            with self._timed("wait"):
                calls.end()
        finally:
            calls.cancel_pending()

    def _send_bucket(self, bucket: Bucket, place: int, num_buckets: int) -> None:
        with self._timed("send"):
            self.client.update_weights(
                {
                    "header": bucket.header(),
                    "path": self._buffers[place].path,
                    "data": bucket.data,
                    "num_buckets": num_buckets,
                    "stay": self._policy.can_settle,
                }
            )

    def _pack(
        self, layout: Layout, whole: list[tuple[str, torch.Tensor]], place: int, settles: bool
    ) -> Bucket:
        """Copy tensors into the bucket's memory, which is kept from update to update."""
        held = self._buffers.get(place)
        if settles and held is not None and layout.lies_in(held.data, whole):
            return fill(layout, whole, held.data)
        # what weights have settled in is theirs, as long as they live
        if settles or held is None or len(held.data) < layout.num_bytes:
            self._buffers[place] = held = SharedBuffer(layout.num_bytes)
        bucket = fill(layout, whole, held.data)
        if settles:
            self._policy.settle(layout.views(held.data))
        return bucket

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
    timeout_s: float,
) -> TrainerWeightTransferEngine[Any]:
    """The trainer engine of a transfer. All ranks call; ``address`` is rank 0's node.

    ``timeout_s`` bounds each wait of ``object_store`` for its engines. ``nccl`` and ``ipc`` need
    GPUs; they were not run on a machine without one.
    """
    init = _trainer_init(config, rank, address, timeout_s)
    return WeightTransferTrainerFactory.trainer_init(init, client=client, source=source)


def _trainer_init(
    config: TransferConfig, rank: int, address: str, timeout_s: float
) -> TrainerInitInfo:
    size = config.bucket_bytes
    if isinstance(config, ObjectStoreConfig):
        return ObjectStoreTrainerInit(rank=rank, bucket_bytes=size, timeout_s=timeout_s)
    if isinstance(config, NcclConfig):
        from learner.nccl_transfer import NcclGroupTrainerInit

        return NcclGroupTrainerInit(rank=rank, address=address, bucket_bytes=size)
    from learner.ipc_transfer import IpcBytesTrainerInit

    return IpcBytesTrainerInit(rank=rank, bucket_bytes=size)


WeightTransferTrainerFactory.register_engine("object_store", ObjectStoreTrainer)
WeightTransferTrainerFactory.register_engine(
    "nccl_group", "learner.nccl_transfer", "NcclGroupTrainer"
)
WeightTransferTrainerFactory.register_engine("ipc_bytes", "learner.ipc_transfer", "IpcBytesTrainer")
