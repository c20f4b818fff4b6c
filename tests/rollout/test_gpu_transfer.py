"""The engine's side of NCCL and IPC transfers, as far as vLLM's classes run without a GPU."""

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.wire.test_cuda_handle import handle
from wire.cuda_handle import encode
from wire.engine_group import GIVEN_UP, Meeting, open_store
from wire.errors import WeightUpdateError

pytestmark = pytest.mark.slow  # imports vLLM


class Model(torch.nn.Module):
    """Two layers of two tensors each, loaded as vLLM's models load theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    def load_weights(self, weights: Any) -> None:
        from vllm.model_executor.model_loader.weight_utils import default_weight_loader

        for name, tensor in weights:
            parameter = self.get_parameter(name)
            getattr(parameter, "weight_loader", default_weight_loader)(parameter, tensor)


@pytest.fixture
def make() -> Any:
    def transfer(kind: str) -> Any:
        from vllm.model_executor.model_loader.reload import record_metadata_for_reloading

        import rollout.gpu_transfer as module

        parallel = SimpleNamespace(data_parallel_index=0, world_size=1, rank=0)
        config = SimpleNamespace(
            parallel_config=parallel, model_config=SimpleNamespace(dtype=torch.float32)
        )
        model = Model()
        record_metadata_for_reloading(model)
        return getattr(module, kind)(None, config, torch.device("cpu"), model)

    return transfer


def invitation(store: Any, **changes: Any) -> dict[str, Any]:
    return {
        "address": "127.0.0.1",
        "port": store.port,
        "generation": 1,
        "rank_offset": 1,
        "world_size": 2,
        "unique_id": "aWQ=",
        "bucket_bytes": 64,
        "timeout_s": 60.0,
        **changes,
    }


class Communicator:
    """Blocks until it is destroyed."""

    def __init__(self) -> None:
        self.destroyed = threading.Event()

    def destroy(self) -> None:
        self.destroyed.set()


def test_an_engine_comes_to_the_group_and_joins_once_all_are_there(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = list[Any]()
    transfer, store = make("NcclGroupTransfer"), open_store()
    monkeypatch.setattr(
        "rollout.gpu_transfer.uid_init_process_group",
        lambda *values: joined.append(values) or Communicator(),
    )
    meeting = Meeting(store, 1)
    info = transfer.parse_init_info(invitation(store))
    thread = threading.Thread(target=transfer.init_transfer_engine, args=(info,))
    thread.start()
    while meeting.absent([1]):
        time.sleep(0.01)
    assert joined == [], "not before the learner knows that all are there"
    meeting.begin()
    thread.join()
    assert joined == [(b"id", 1, 2, 0)]
    assert (transfer.packed, transfer.packed_buffer_size_bytes) == (True, 64)


def test_a_receiver_is_released_when_its_group_is_given_up_and_may_join_another(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [Communicator(), Communicator()]
    transfer, store = make("NcclGroupTransfer"), open_store()
    monkeypatch.setattr(
        "rollout.gpu_transfer.uid_init_process_group", lambda *_: made[transfer.generation - 1]
    )
    monkeypatch.setattr(
        "vllm.distributed.weight_transfer.nccl_engine.packed_nccl_broadcast_consumer",
        lambda **given: given["group"].destroyed.wait(60),
    )

    def join(generation: int) -> None:
        transfer.generation = generation
        Meeting(store, generation).begin()
        info = invitation(store, generation=generation)
        transfer.init_transfer_engine(transfer.parse_init_info(info))

    join(1)
    meeting = Meeting(store, 1)
    threading.Timer(0.3, meeting.give_up).start()
    update = {"names": [], "dtype_names": [], "shapes": [], "transfer": 4}
    with pytest.raises(WeightUpdateError, match=GIVEN_UP):
        transfer.receive_weights(transfer.parse_update_info(update))
    assert made[0].destroyed.is_set()
    assert meeting.outside([1], 4) == [], "it took part"
    with pytest.raises(WeightUpdateError, match="in no transfer group"):
        transfer.receive_weights(transfer.parse_update_info(update))
    join(2)
    assert transfer.model_update_group is made[1]


def test_a_process_that_no_abort_frees_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    import rollout.gpu_transfer as module

    monkeypatch.setattr(module, "_GRACE_S", 0.1)
    ended = threading.Event()

    def end(status: int) -> None:
        assert status == 1
        ended.set()

    with (
        pytest.raises(WeightUpdateError, match=f"{GIVEN_UP} before it could wait"),
        module.watched(lambda: True, lambda: None, 60.0, "wait", end=end),
    ):
        assert ended.wait(30)


def test_a_receiver_that_waits_too_long_is_released_though_nobody_gave_up() -> None:
    import rollout.gpu_transfer as module

    released = threading.Event()
    with (
        pytest.raises(WeightUpdateError, match=GIVEN_UP),
        module.watched(lambda: False, released.set, 0.1, "wait"),
    ):
        assert released.wait(30)


def load(transfer: Any, value: float, names: Iterator[str] | None = None) -> None:
    tensors = dict(transfer.model.named_parameters())
    for name in names or tensors:
        transfer.model.load_weights([(name, torch.full(tensors[name].shape, value))])


@pytest.mark.parametrize("kind", ["NcclGroupTransfer", "IpcBytesTransfer"])
def test_half_an_update_leaves_nothing_in_the_next_one(make: Any, kind: str) -> None:
    """vLLM keeps weights until their layer is whole: two halves would make a layer of two
    versions."""
    transfer = make(kind)
    transfer.start_weight_update()
    load(transfer, 1.0, iter(["first.weight", "first.bias", "second.bias"]))
    transfer.start_weight_update()
    load(transfer, 2.0)
    transfer.finish_weight_update()
    for parameter in transfer.model.parameters():
        assert (parameter == 2.0).all()


def test_a_handle_reaches_the_engines_process_without_the_insecure_mode(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through vLLM's own encoder, as update_weights sends it."""
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    monkeypatch.delenv("VLLM_ALLOW_INSECURE_SERIALIZATION", raising=False)
    rest = {"names": ["a"], "dtype_names": ["float32"], "shapes": [[4]], "tensor_sizes": [16]}
    with pytest.raises(TypeError, match="is not serializable"):
        MsgpackEncoder().encode({**rest, "ipc_handles": {"GPU-1": handle()}})
    sent = MsgpackEncoder().encode({**rest, "ipc_handles": {"GPU-1": encode(handle())}})
    got = MsgpackDecoder().decode(sent)
    update = make("IpcBytesTransfer").parse_update_info(got)
    assert update.ipc_handles == {"GPU-1": handle()}
    assert update.tensor_sizes == [16]


def test_an_engine_whose_gpu_no_rank_shares_says_so(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="GPU-2")
    )
    transfer = make("IpcBytesTransfer")
    update = {"names": ["a"], "dtype_names": ["float32"], "shapes": [[4]], "tensor_sizes": [16]}
    parsed = transfer.parse_update_info({**update, "ipc_handles": {"GPU-1": encode(handle())}})
    with pytest.raises(WeightUpdateError, match=r"GPU-2, theirs are \['GPU-1'\].*rank i"):
        transfer.receive_weights(parsed)
