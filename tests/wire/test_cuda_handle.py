import pytest
import torch

from wire.cuda_handle import decode, encode
from wire.errors import WeightUpdateError


def handle(**changes):
    """Arguments as torch's reduce_tensor makes them of a uint8 buffer on a GPU."""
    arguments = {
        "tensor_cls": torch.Tensor,
        "tensor_size": torch.Size([64]),
        "tensor_stride": (1,),
        "tensor_offset": 0,
        "storage_cls": torch.storage.TypedStorage,
        "dtype": torch.uint8,
        "storage_device": 0,
        "storage_handle": b"\x01handle\x00",
        "storage_size_bytes": 64,
        "storage_offset_bytes": 512,
        "requires_grad": False,
        "ref_counter_handle": b"/torch_1",
        "ref_counter_offset": 3,
        "event_handle": b"event",
        "event_sync_required": True,
    }
    return tuple((arguments | changes).values())


def test_torchs_arguments_come_back_as_they_were():
    assert decode(encode(handle())) == handle()


def test_the_order_is_that_of_torch():
    import inspect

    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    assert len(inspect.signature(rebuild_cuda_tensor).parameters) == len(handle())
    names = list(inspect.signature(rebuild_cuda_tensor).parameters)
    assert [names[place] for place in (0, 1, 2, 4, 5)] == [
        "tensor_cls",
        "tensor_size",
        "tensor_stride",
        "storage_cls",
        "dtype",
    ]


@pytest.mark.parametrize(
    "changes",
    [{"dtype": torch.float32}, {"storage_cls": torch.UntypedStorage}, {"event_handle": object()}],
)
def test_a_handle_of_another_form_is_refused(changes):
    with pytest.raises(WeightUpdateError, match="another form than is known here"):
        encode(handle(**changes))


def test_a_handle_with_another_number_of_arguments_is_refused():
    with pytest.raises(WeightUpdateError, match="another form"):
        encode(handle()[:-1])
