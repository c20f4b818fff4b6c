"""Weights from a learner's rank to a process on the same card: `transfer.kind = "ipc"`.

The project's trainer sends; the receiver opens the handles as vLLM's workers do. Buckets are small,
so that one buffer is written many times, and one weight is larger than a bucket. On CPU nothing of
this exists.
"""

import hashlib
import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.figures import Figure
from tests.gpu.rows import NotRun
from tests.gpu.setting import Setting

_TIMEOUT_S = 90.0
_BUCKET = 2**20
_SHAPES = [(512, 512), (512,), (64, 4096), (7, 3), (1024, 1024)]


def figures(setting: Setting) -> Iterator[Figure | NotRun]:
    """How many weights arrive with other bits, over two updates: none."""
    if setting.small:
        yield NotRun("weights_ipc", "skipped: needs a card")
        return
    from learner.ipc_transfer import IpcBytesTrainer, IpcBytesTrainerInit

    with Receiver() as receiver:
        weights = Weights(setting.device)
        init = IpcBytesTrainerInit(rank=0, bucket_bytes=_BUCKET)
        trainer = IpcBytesTrainer.trainer_init(init, client=receiver, source=weights)
        for update in ("first", "second"):
            receiver.digests.clear()
            trainer.send_weights()
            expected = {name: digest(tensor) for name, tensor in weights}
            differ = sum(receiver.digests.get(name) != text for name, text in expected.items())
            yield Figure(f"weights_ipc/{update}_differ", differ, "weights", 0, "below")
            weights.train()


class Weights:
    """As much of vLLM's WeightSource as the trainer asks for."""

    def __init__(self, device: str) -> None:
        torch.manual_seed(0)
        dtypes = (torch.bfloat16, torch.float32)
        self._tensors = {
            f"layer.{n}.{dtype}": torch.randn(shape, device=device).to(dtype)
            for dtype in dtypes
            for n, shape in enumerate(_SHAPES)
        }

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self._tensors.items())

    def metadata(self) -> Sequence[Tensor]:
        return list(self._tensors.values())

    def train(self) -> None:
        for tensor in self._tensors.values():
            tensor.mul_(1.5)


class Receiver:
    """An engine's client and, in another process, its worker."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_worker, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.digests: dict[str, str] = {}

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()

    def init_weight_transfer_engine(self, info: dict[str, Any]) -> None:
        """Nothing to agree on: buckets are always packed."""

    def start_weight_update(self, *_: object) -> None: ...

    def finish_weight_update(self, *_: object) -> None: ...

    def update_weights(self, update: dict[str, Any]) -> None:
        self._connection.send(update)
        if not self._connection.poll(_TIMEOUT_S):
            raise TimeoutError(f"the receiver gave no answer within {_TIMEOUT_S:.0f} s")
        self.digests |= self._connection.recv()


def _worker(connection: Connection) -> None:
    from vllm.distributed.weight_transfer.packed_tensor import (
        PackedBufferImporter,
        packed_ipc_consumer,
    )

    from wire.cuda_handle import decode

    importer = PackedBufferImporter()
    while True:
        update = connection.recv()
        handles = {gpu: decode(values) for gpu, values in update.pop("ipc_handles").items()}
        weights = packed_ipc_consumer(
            ipc_handle=handles, **update, device_index=0, importer=importer
        )
        connection.send({name: digest(tensor) for name, tensor in weights})


def digest(tensor: Tensor) -> str:
    """Hash of a tensor's bits."""
    bits = tensor.contiguous().view(-1).view(torch.uint8).cpu()
    return hashlib.sha256(bits.numpy().tobytes()).hexdigest()
