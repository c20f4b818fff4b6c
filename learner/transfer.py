"""The learner's side of a weight update, through vLLM's weight-transfer interface.

    engine's parameters -> PolicySource -> trainer engine of the backend -> client (rollout workers)

``nccl`` and ``ipc`` are vLLM's own trainer engines; ``object_store`` is ours, for machines without
NCCL: checked buckets that the client hands to every rollout worker. All ranks take part, because
gathering ZeRO-3 shards is a collective; rank 0 sends.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

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
from wire.weights import num_buckets, pack

Parameters = Callable[[], Iterator[tuple[str, torch.Tensor]]]


class PolicySource(WeightSource):
    """The policy's parameters, whole, one after another, in the engine's precision."""

    def __init__(self, parameters: Parameters, dtype: torch.dtype) -> None:
        self._parameters = parameters
        self._dtype = dtype
        self._metadata: list[ParamMeta] | None = None

    def metadata(self) -> list[ParamMeta]:
        """Names, shapes, precision on the wire. The first call gathers, so all ranks make it."""
        if self._metadata is None:
            self._metadata = [
                ParamMeta(name, self._dtype, tuple(tensor.shape))
                for name, tensor in self._parameters()
            ]
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._parameters():
            yield name, tensor.to(self._dtype)


@dataclass
class ObjectStoreTrainerInit(TrainerInitInfo):
    """Trainer side of the ``object_store`` backend."""

    backend: ClassVar[str] = "object_store"
    bucket_bytes: int = 1 << 28


class ObjectStoreTrainer(TrainerWeightTransferEngine[ObjectStoreTrainerInit]):
    """Sends checked buckets through the client, each with their number: a lost one is noticed."""

    init_info_cls = ObjectStoreTrainerInit

    def __init__(self, *, bucket_bytes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._bucket_bytes = bucket_bytes

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
        )

    def send_weights(self) -> None:
        """One whole update. Raises what the client raises."""
        assert self.source is not None
        sizes = [_num_bytes(meta) for meta in self.source.metadata()]  # all ranks: may gather
        if not self.is_sender:
            for _ in self.source:  # takes part in gathering
                pass
            return
        count = num_buckets(sizes, self._bucket_bytes)
        self.client.start_weight_update()
        for bucket in pack(self.source, self._bucket_bytes):
            self.client.update_weights(
                {"header": bucket.header(), "data": bucket.data, "num_buckets": count}
            )
        self.client.finish_weight_update()


def connect(
    config: TransferConfig,
    client: VLLMWeightSyncClient,
    source: PolicySource,
    rank: int,
    address: str,
    num_engine_ranks: int,
) -> TrainerWeightTransferEngine[Any]:
    """The backend's trainer engine, its rendezvous with the rollout engines done. All ranks call.

    ``nccl`` and ``ipc`` are vLLM's own and need GPUs; they were not run on a machine without one.
    """
    if isinstance(config, ObjectStoreConfig):
        init: TrainerInitInfo = ObjectStoreTrainerInit(
            rank=rank, bucket_bytes=int(config.bucket_mb * 2**20)
        )
    else:
        init = _vllm_init(config, rank, address, num_engine_ranks)
    return WeightTransferTrainerFactory.trainer_init(init, client=client, source=source)


def _num_bytes(meta: ParamMeta) -> int:
    return int(math.prod(meta.shape) * meta.dtype.itemsize)


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
