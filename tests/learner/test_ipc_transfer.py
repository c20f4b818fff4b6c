"""IPC transfers with vLLM's own trainer, packing, encoder and receiver. Only CUDA is replaced: each
thread has a GPU, whose memory is the CPU's, and a handle is the name of a buffer there."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from learner.weight_transfer import PolicySource
from tests.wire.test_cuda_handle import handle
from wire.errors import WeightUpdateError

pytestmark = pytest.mark.slow  # imports vLLM

BUCKET_BYTES = 24
SHAPES = {"first.weight": (2, 2), "first.bias": (2,), "second.weight": (4, 2), "second.bias": (4,)}


class Weights:
    """A rank's weights; those of different ranks differ, to show whose memory was read."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def weight_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return list(SHAPES.items())

    def full_parameters(self, bucket_bytes: int) -> Iterator[tuple[str, torch.Tensor]]:
        for index, (name, shape) in enumerate(SHAPES.items()):
            yield name, torch.full(shape, 10.0 * self.rank + index)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 4)

    def load_weights(self, weights: Any) -> None:
        from vllm.model_executor.model_loader.weight_utils import default_weight_loader

        for name, tensor in weights:
            parameter = self.get_parameter(name)
            getattr(parameter, "weight_loader", default_weight_loader)(parameter, tensor)


class Cuda:
    """Ranks and engines in threads, each with a GPU of its own; their collectives."""

    def __init__(self, num_ranks: int) -> None:
        self.local, self.barrier = threading.local(), threading.Barrier(num_ranks)
        self.num_ranks, self.buffers = num_ranks, dict[bytes, torch.Tensor]()
        self.gathered: list[Any] = [None] * num_ranks

    def empty(self, size: int, dtype: torch.dtype, device: str) -> torch.Tensor:
        assert device == "cuda"
        return torch.zeros(size, dtype=dtype)

    def reduce_tensor(self, tensor: torch.Tensor) -> tuple[None, tuple[Any, ...]]:
        key = f"{self.local.rank}-{len(self.buffers)}".encode()
        self.buffers[key] = tensor
        return None, handle(storage_handle=key, tensor_size=tensor.size())

    def rebuild(self, *arguments: Any) -> torch.Tensor:
        assert arguments[6] == self.local.rank, "the receiver's own device"
        return self.buffers[arguments[7]]

    def all_gather_object(self, gathered: list[Any], given: Any) -> None:
        self.gathered[self.local.rank] = given
        self.barrier.wait(60)
        gathered[:] = self.gathered
        self.barrier.wait(60)

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vllm.distributed.weight_transfer import ipc_engine, packed_tensor

        stream = SimpleNamespace(synchronize=lambda: None)
        properties = lambda index: SimpleNamespace(uuid=f"GPU-{index}")  # noqa: E731
        for name, value in {
            "current_stream": lambda: stream,
            "get_device_properties": properties,
            "synchronize": lambda: None,
            "ipc_collect": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: self.local.rank)
        distributed = SimpleNamespace(
            is_initialized=lambda: True,
            get_world_size=lambda: self.num_ranks,
            all_gather_object=self.all_gather_object,
            barrier=lambda: self.barrier.wait(60),
        )
        shim = {"empty": self.empty, "cuda": torch.cuda, "uint8": torch.uint8, "cat": torch.cat}
        names = ("float32", "Tensor", "accelerator", "device")
        rest = {name: getattr(torch, name) for name in names}
        monkeypatch.setattr(packed_tensor, "torch", SimpleNamespace(**shim, **rest))
        monkeypatch.setattr(
            ipc_engine, "torch", SimpleNamespace(distributed=distributed, **shim, **rest)
        )
        monkeypatch.setattr(packed_tensor, "reduce_tensor", self.reduce_tensor)
        monkeypatch.setattr("torch.multiprocessing.reductions.rebuild_cuda_tensor", self.rebuild)


class Client:
    """Brings every update to all engines through vLLM's encoder; ``gpus``: of engine i."""

    def __init__(self, cuda: Cuda, gpus: list[int]) -> None:
        from vllm.model_executor.model_loader.reload import record_metadata_for_reloading

        import rollout.gpu_transfer as module

        self.cuda, self.gpus, self.engines = cuda, gpus, list[Any]()
        self.sizes: list[int] = []
        for gpu in gpus:
            model = Model()
            record_metadata_for_reloading(model)
            config = SimpleNamespace(
                parallel_config=None, model_config=SimpleNamespace(dtype=torch.float32)
            )
            device = SimpleNamespace(index=gpu)
            self.engines.append(module.IpcBytesTransfer(None, config, device, model))

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        raise AssertionError("there is no rendezvous")

    def start_weight_update(self) -> None:
        for engine in self.engines:
            engine.start_weight_update()

    def update_weights(self, update: dict[str, Any]) -> None:
        from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

        self.sizes.append(sum(update["tensor_sizes"]))
        rank = self.cuda.local.rank
        for engine, gpu in zip(self.engines, self.gpus, strict=True):
            received = MsgpackDecoder().decode(MsgpackEncoder().encode(update))
            self.cuda.local.rank = gpu
            try:
                engine.receive_weights(engine.parse_update_info(received))
            finally:
                self.cuda.local.rank = rank

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        for engine in self.engines:
            engine.finish_weight_update()


def send(cuda: Cuda, client: Client) -> None:
    """One update of all ranks."""
    errors = list[BaseException]()

    def run(rank: int) -> None:
        from learner.ipc_transfer import IpcBytesTrainer, IpcBytesTrainerInit

        cuda.local.rank = rank
        source = PolicySource(lambda: Weights(rank), torch.float32, BUCKET_BYTES)
        init = IpcBytesTrainerInit(rank=rank, bucket_bytes=BUCKET_BYTES)
        try:
            IpcBytesTrainer.trainer_init(init, client=client, source=source).send_weights()
        except WeightUpdateError as error:
            errors.append(error)
            cuda.barrier.abort()
        except threading.BrokenBarrierError:
            pass

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(cuda.num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_each_engine_reads_the_memory_of_the_rank_on_its_gpu(
    num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_ALLOW_INSECURE_SERIALIZATION", raising=False)
    cuda = Cuda(num_ranks)
    client = Client(cuda, list(range(num_ranks)))
    cuda.patch(monkeypatch)
    for _ in range(2):
        send(cuda, client)
        for rank, engine in enumerate(client.engines):
            for index, name in enumerate(SHAPES):
                assert (engine.model.get_parameter(name) == 10.0 * rank + index).all()


def test_a_rank_keeps_one_buffer_of_a_bucket_or_of_the_largest_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Cuda(1)
    client = Client(cuda, [0])
    cuda.patch(monkeypatch)
    send(cuda, client)
    assert [len(buffer) for buffer in cuda.buffers.values()] == [32], "4 x 2 float32"
    assert client.sizes == [24, 32, 16]


def test_an_engine_without_a_rank_on_its_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(1)
    client = Client(cuda, [1])
    cuda.patch(monkeypatch)
    with pytest.raises(WeightUpdateError, match="no learner rank shares this engine's GPU GPU-1"):
        send(cuda, client)
