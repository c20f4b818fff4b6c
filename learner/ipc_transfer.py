"""IPC weight transfer: each engine reads the memory of the learner's rank on its own GPU.

    every rank: gather a bucket -> pack it into its buffer -> handle
    rank 0:     handles of all ranks, by GPU -> every engine -> loaded -> next bucket

The data path is vLLM's own trainer, packed, so that a rank keeps one buffer of a bucket; it needs
GPUs and was not run on a machine without one.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from vllm.distributed.weight_transfer.base import TrainerInitInfo, WeightSource
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerWeightTransferEngine

from wire.cuda_handle import encode


@dataclass
class IpcBytesTrainerInit(TrainerInitInfo):
    """Settings of the trainer's side."""

    backend: ClassVar[str] = "ipc_bytes"
    bucket_bytes: int = 1 << 28


class IpcBytesTrainer(IPCTrainerWeightTransferEngine):
    """vLLM's IPC trainer, whose handles travel as plain values."""

    init_info_cls = IpcBytesTrainerInit

    @classmethod
    def trainer_init(
        cls,
        init_info: IpcBytesTrainerInit,
        *,
        client: Any,
        source: WeightSource | None = None,
    ) -> "IpcBytesTrainer":
        """Get ready to send; there is no rendezvous."""
        assert source is not None, "weights come from a source"
        return cls(
            client=client,
            source=source,
            is_sender=init_info.is_sender,
            packed=True,
            packed_buffer_size_bytes=init_info.bucket_bytes,
        )

    def send_weights(self) -> None:
        """Send one whole update. The buffer has room for the largest weight."""
        sizes = [math.prod(m.shape) * m.dtype.itemsize for m in self.source.metadata()]
        self.packed_buffer_size_bytes: int = max(self.packed_buffer_size_bytes, *sizes)
        super().send_weights()

    def _do_send(
        self,
        names: list[str],
        dtype_names: list[str],
        shapes: list[list[int]],
        ipc_handles: Any,
        tensor_sizes: list[int] | None = None,
    ) -> None:
        if self.is_sender:
            handles = {gpu: encode(arguments) for gpu, arguments in ipc_handles.items()}
            self.client.update_weights(
                {
                    "names": names,
                    "dtype_names": dtype_names,
                    "shapes": shapes,
                    "ipc_handles": handles,
                    "tensor_sizes": tensor_sizes,
                }
            )
